"""Learning-rate schedules: literal values, mmcv's formulas written out, and refused settings."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qdbev.engine.schedule import ScheduleSettings, learning_rate_factor


def _factors(settings, steps):
    return [learning_rate_factor(step, settings=settings) for step in steps]


def test_cosine_by_hand():
    plan = ScheduleSettings(steps=100, minimum_ratio=0.2)
    assert _factors(plan, [0, 50, 100, 200]) == pytest.approx([1.0, 0.6, 0.2, 0.2])
    assert _factors(plan, [25])[0] == pytest.approx(0.2 + 0.8 * 0.5 * (1 + math.sqrt(0.5)))


@given(step=st.integers(0, 2400))
def test_official_schedule(step):
    """24 epochs of 100 steps: mmcv's cosine by epoch, times its linear warm-up over 50 steps from 1/3."""
    plan = ScheduleSettings(steps=2400, warmup_steps=50, warmup_ratio=1 / 3, minimum_ratio=1e-3, hold_steps=100)
    expected = 1e-3 + 0.5 * (1 - 1e-3) * (math.cos(math.pi * (step // 100) / 24) + 1)
    if step < 50:
        expected *= 1 - (1 - step / 50) * (1 - 1 / 3)
    assert learning_rate_factor(step, settings=plan) == pytest.approx(expected)


def test_staircase_by_hand():
    plan = ScheduleSettings(steps=10, shape="step", milestones=(0.5, 0.8), milestone_factor=0.1)
    assert _factors(plan, [0, 4, 5, 7, 8, 9]) == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_warm_up_of_a_constant_rate():
    plan = ScheduleSettings(steps=10, warmup_steps=4, warmup_ratio=0.2, shape="constant")
    assert _factors(plan, range(6)) == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])


def test_no_steps_is_a_schedule_too():
    assert learning_rate_factor(0, settings=ScheduleSettings(steps=0)) == 1.0


@pytest.mark.parametrize(
    "change",
    [
        {"shape": "linear"},
        {"steps": -1},
        {"warmup_steps": -1},
        {"hold_steps": 0},
        {"warmup_ratio": 0.0},
        {"minimum_ratio": 1.1},
    ],
)
def test_refuses(change):
    with pytest.raises(ValueError, match="expected"):
        ScheduleSettings(**{"steps": 10, **change})
