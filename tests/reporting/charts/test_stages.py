"""Stages put one after the other."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from qdbev.reporting.charts.stages import join_stages


def test_scores_and_losses_are_parted_and_shifted():
    first = [{"step": 0, "NDS": 0.3}, {"step": 10, "loss": 5.0}, {"step": 20, "loss": 4.0, "NDS": 0.35}]
    second = [{"step": 10, "loss": 3.0}, {"step": 30, "NDS": 0.36}]
    joined = join_stages([("backbone", first), ("neck", second)])
    assert joined.points == [{"step": 0, "NDS": 0.3}, {"step": 20, "NDS": 0.35}, {"step": 50, "NDS": 0.36}]
    assert joined.losses == [{"step": 10, "loss": 5.0}, {"step": 20, "loss": 4.0}, {"step": 30, "loss": 3.0}]
    assert joined.stages == [
        {"name": "backbone", "start": 0, "end": 20},
        {"name": "neck", "start": 20, "end": 50},
    ]


def test_other_names_of_score_and_loss():
    joined = join_stages([("a", [{"step": 1, "nds": 0.5, "loss_total": 2.0}])], score="nds", loss="loss_total")
    assert joined.points == [{"step": 1, "NDS": 0.5}]
    assert joined.losses == [{"step": 1, "loss": 2.0}]


@given(st.lists(st.lists(st.integers(0, 50), max_size=5).map(sorted), max_size=5))
def test_stages_touch_and_steps_ascend(stages):
    joined = join_stages(
        [(str(index), [{"step": step, "NDS": 0.1} for step in steps]) for index, steps in enumerate(stages)]
    )
    assert [stage["start"] for stage in joined.stages[1:]] == [stage["end"] for stage in joined.stages[:-1]]
    steps = [point["step"] for point in joined.points]
    assert steps == sorted(steps)
    assert len(steps) == sum(len(stage) for stage in stages)
