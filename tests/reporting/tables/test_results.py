"""Tables of scores: differences, intervals, verdicts and ranks against numbers written by hand."""

from __future__ import annotations

import math

import pytest

from qdbev.reporting.tables.results import (
    accuracy_table,
    class_table,
    comparison_table,
    rank_by_drop,
    sensitivity_table,
)
from qdbev.reporting.tables.table import render

# The paper's table 1, tiny, W4A6 (name, mAP, NDS)
TINY = (
    ("float", 0.252, 0.354),
    ("backbone", 0.212, 0.310),
    ("neck", 0.252, 0.353),
    ("encoder", 0.181, 0.295),
    ("decoder", 0.251, 0.353),
    ("all", 0.145, 0.246),
)
ROWS = [{"name": name, "mAP": score, "NDS": nds} for name, score, nds in TINY]


def test_accuracy_table_reads_as_written_here():
    rows = [
        {"name": "float", "bits": "W32A32", "NDS": 0.4, "mAP": 0.5, "mATE": 0.7},
        {"name": "PTQ", "bits": "W4A6", "NDS": 0.3, "mAP": 0.375, "NDS_low": -0.12, "NDS_high": -0.08, "mATE": 0.8},
        {"name": "VGD", "bits": "W4A6", "NDS": 0.399, "mAP": 0.5, "NDS_low": -0.005, "NDS_high": 0.003},
    ]
    table = accuracy_table(rows, reference="float")
    assert table.cells == [
        ["float", "W32A32", "0.400", "–", "100.0 %", "0.500", "0.700"],
        ["PTQ", "W4A6", "0.300", "−0.100 [−0.120, −0.080]", "75.0 %", "0.375", "0.800"],
        ["VGD", "W4A6", "0.399", "−0.001 n.s. [−0.005, +0.003]", "99.8 %", "0.500", "–"],
    ]
    assert [column.head for column in table.columns] == [
        "model",
        "bits",
        "NDS",
        "NDS − float",
        "of float",
        "mAP",
        "mATE",
    ]
    assert table.rows[1]["NDS_change"] == pytest.approx(-0.1)
    assert table.rows[1]["NDS_of_reference"] == pytest.approx(0.75)
    assert table.rows[1]["mAP_change"] == pytest.approx(-0.125)
    assert "n.s. (not significant)" in render(table)


def test_rows_given_are_not_changed():
    rows = [dict(row) for row in ROWS]
    accuracy_table(rows, reference="float")
    assert rows == ROWS


@pytest.mark.parametrize("reference", ["teacher", "twice"])
def test_the_reference_must_be_there_once(reference):
    rows = [*ROWS, {"name": "twice", "mAP": 0.1, "NDS": 0.1}, {"name": "twice", "mAP": 0.1, "NDS": 0.1}]
    with pytest.raises(ValueError, match=f"{reference}.*expected one"):
        accuracy_table(rows, reference=reference)


def test_a_reference_of_zero_gives_no_ratio():
    rows = [{"name": "float", "NDS": 0.0, "mAP": 0.0}, {"name": "x", "NDS": 0.1, "mAP": 0.0}]
    assert accuracy_table(rows, reference="float").rows[1]["NDS_of_reference"] is None


def test_sensitivity_ranks_the_parts_of_the_papers_table_1():
    table = sensitivity_table(ROWS, reference="float")
    ranks = {row["name"]: row["rank"] for row in table.rows}
    assert ranks == {"float": None, "encoder": 1, "backbone": 2, "neck": 3, "decoder": 4, "all": None}
    assert table.cells[1] == ["backbone", "0.212", "−0.040", "0.310", "−0.044", "87.6 %", "2"]
    assert table.cells[5] == ["all", "0.145", "−0.107", "0.246", "−0.108", "69.5 %", "–"]


def test_equal_drops_keep_their_order():
    rows = [{"name": name, "NDS": 0.3} for name in ("c", "a", "b")]
    assert rank_by_drop(rows) == ["c", "a", "b"]
    assert rank_by_drop(rows, unranked=("a",)) == ["c", "b"]


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.001, 0.01, "better"), (-0.01, -0.001, "worse"), (-0.01, 0.01, "n.s."), (0, 0.1, "n.s.")],
)
def test_verdict_follows_the_interval(low, high, verdict):
    rows = [{"name": "VGD", "than": "QAT", "NDS_change": 0.004, "NDS_low": low, "NDS_high": high, "seeds": 3}]
    table = comparison_table(rows)
    assert table.rows[0]["verdict"] == verdict
    assert table.cells[0][-1] == "3"


def test_class_table_has_dashes_where_nuscenes_defines_no_error():
    rows = [{"class": "traffic_cone", "AP": 0.5, "ATE": 0.4, "AOE": math.nan}, {"class": "car", "AP": 0.6, "AOE": 0.1}]
    assert class_table(rows).cells == [["traffic_cone", "0.500", "0.400", "–"], ["car", "0.600", "–", "0.100"]]
