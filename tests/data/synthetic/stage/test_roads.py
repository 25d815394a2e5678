"""The way driven and the side of the road it is driven on."""

from __future__ import annotations

import numpy as np
import pytest

from qdbev.data.synthetic.stage.roads import LANE_M, distance, draw_layout
from qdbev.data.synthetic.tokens import generator


def test_braking_ends_in_standing() -> None:
    times = np.linspace(0, 4, 401)
    driven = distance(times, speed=4.0, acceleration=-2.0)
    np.testing.assert_allclose(driven[[100, 200, 400]], [3.0, 4.0, 4.0], atol=1e-3)  # v0 t - t^2, then still


def test_speed_is_limited() -> None:
    times = np.linspace(0, 10, 1001)
    assert np.diff(distance(times, speed=10.0, acceleration=2.0)).max() == pytest.approx(0.12)


@pytest.mark.parametrize("number", range(8))
def test_traffic_keeps_to_the_right(number: int) -> None:
    layout = draw_layout(generator("roads", number), duration_s=3.5)
    road = layout.roads[0]
    for forward in (True, False):
        lane = road.lane(0, forward=forward)
        x, y, yaw = lane.at(0.0)
        left = np.array([x, y]) + LANE_M / 2 * np.array([-np.sin(yaw), np.cos(yaw)])
        gap = np.linalg.norm(road.centre.points - left, axis=1).min()
        assert gap < 0.6  # the centre line (1 m between its points) is half a lane to the left


@pytest.mark.parametrize("number", range(8))
def test_the_ego_starts_in_its_lane(number: int) -> None:
    layout = draw_layout(generator("roads", number), duration_s=3.5)
    gap = np.linalg.norm(layout.ego_path.at(0.0)[:2] - layout.roads[0].lane(layout.ego_lane).at(0.0)[:2])
    assert gap < 1.0


@pytest.mark.parametrize("seed", [17, 18, 19, 41, 50, 53])
def test_a_turn_joins_its_lanes_without_a_gap(seed: int) -> None:
    layout = draw_layout(np.random.default_rng(seed), duration_s=4.0)
    assert layout.turning
    steps = np.linalg.norm(np.diff(layout.ego_path.points, axis=0), axis=1)
    assert steps.max() < 2.0 + 1e-9  # the crossing road's own
