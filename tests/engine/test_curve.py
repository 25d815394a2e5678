"""The curve: means since the last row, values that are not finite left out, and resuming in mid-window."""

from __future__ import annotations

import json

from qdbev.engine.curve import Curve


def test_rows_by_hand():
    curve = Curve()
    curve.add({"loss": 1.0, "grad_norm": float("inf")})
    curve.add({"loss": 4.0, "grad_norm": 3.0})
    curve.close_row(step=2, learning_rate=0.5, metrics={})
    curve.add({"loss": 7.0})
    curve.close_row(step=3, learning_rate=0.25, metrics={"nds": 0.4})
    assert curve.rows == [
        {"step": 2, "learning_rate": 0.5, "loss": 2.5, "grad_norm": 3.0},
        {"step": 3, "learning_rate": 0.25, "loss": 7.0, "nds": 0.4},
    ]


def test_window_goes_on_through_json():
    values = [0.1, 1 / 3, 2e-17, 12345.678]
    whole, half = Curve(), Curve()
    for value in values:
        whole.add({"loss": value})
    for value in values[:2]:
        half.add({"loss": value})
    resumed = Curve()
    resumed.load_state(json.loads(json.dumps(half.state())))
    for value in values[2:]:
        resumed.add({"loss": value})
    assert resumed.close_row(step=4, learning_rate=1.0, metrics={}) == whole.close_row(
        step=4, learning_rate=1.0, metrics={}
    )
