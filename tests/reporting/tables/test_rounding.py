"""Rounding rules, against texts written by hand and against the printed tables of the paper."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qdbev.reporting.tables import rounding


def test_missing_numbers_are_a_dash_in_every_rule():
    rules = (rounding.score_text, rounding.change_text, rounding.percent_text, rounding.times_text, rounding.count_text)
    for rule in (*rules, rounding.megabytes_text):
        assert rule(None) == "–"
        assert rule(float("nan")) == "–"
    assert rounding.scaled_text(None, divisor=1e9) == "–"
    assert rounding.interval_text(None, low=-0.1, high=0.1) == "–"


@pytest.mark.parametrize(
    ("parameters", "printed"), [(33_245_627, "126.82"), (59_135_865, "225.59"), (68_707_193, "262.10")]
)
def test_megabytes_are_those_of_the_paper(parameters, printed):
    """The paper prints 126.8 and 225.6 for tiny and small: trainable parameters x 4 bytes / 2**20."""
    assert rounding.megabytes_text(parameters * 4) == printed


@pytest.mark.parametrize(
    ("float_tera", "bits", "printed"),
    [(62.33, 64, "3.90"), (62.33, 24, "1.46"), (236.13, 64, "14.76"), (667.39, 24, "15.64")],
)
def test_bops_are_written_like_the_papers_table_4(float_tera, bits, printed):
    assert rounding.scaled_text(float_tera * 1e12 * bits / 1024, divisor=1e12) == printed


@pytest.mark.parametrize(
    ("largest", "unit"),
    [(999.0, ""), (1e3, "k"), (9.99e5, "k"), (6.8e11, "G"), (1e12, "T"), (6.6e14, "T"), (2e6, "M"), (0.0, "")],
)
def test_unit_of_bops_follows_the_largest_number(largest, unit):
    assert rounding.bops_unit(largest)[1] == unit


@pytest.mark.parametrize(
    ("difference", "low", "high", "text"),
    [
        (-0.012, -0.018, -0.006, "−0.012 [−0.018, −0.006]"),
        (0.012, 0.006, 0.018, "+0.012 [+0.006, +0.018]"),
        (-0.001, -0.004, 0.002, "−0.001 n.s. [−0.004, +0.002]"),
        (0.0, 0.0, 0.0, "0.000 n.s. [0.000, 0.000]"),
        (-0.003, -0.006, 0.0, "−0.003 n.s. [−0.006, 0.000]"),
        (-0.003, -0.006, -0.0002, "−0.003 [−0.006, 0.000]"),
        (-0.003, None, None, "−0.003"),
    ],
)
def test_a_difference_whose_interval_holds_zero_stays_a_number_and_is_not_significant(difference, low, high, text):
    assert rounding.interval_text(difference, low=low, high=high) == text


@given(st.floats(min_value=-10, max_value=10, allow_nan=False))
def test_a_change_reads_back_within_half_a_thousandth(value):
    read = float(rounding.change_text(value).replace("−", "-"))
    assert math.isclose(read, value, abs_tol=0.0005 + 1e-9)


@given(st.floats(min_value=1e-3, max_value=1e15, allow_nan=False))
def test_a_scaled_number_keeps_its_size(value):
    divisor, _ = rounding.bops_unit(value)
    assert math.isclose(float(rounding.scaled_text(value, divisor=divisor)) * divisor, value, rel_tol=0.06)
