"""Ray-casting against hand-placed boxes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from qdbev.data.synthetic.sensors.cameras import Sensor
from qdbev.data.synthetic.sensors.lidar import BEAMS, RANGE_M, Scanner
from qdbev.data.synthetic.tokens import generator

LEVEL = Sensor("LIDAR_TOP", np.array([0.0, 0.0, 1.8]), np.array([1.0, 0, 0, 0]), None)


def test_a_wall_ahead_is_hit_at_its_distance_and_hides_what_is_behind(crowd_of: Callable) -> None:
    crowd = crowd_of((11.0, 0.0, 0.0, (2.0, 8.0, 4.0)), (16.0, 0.0, 0.0, (2.0, 2.0, 2.0)))
    sweep = Scanner(crowd, LEVEL).sweep(crowd.at(0.5), generator("sweep"))
    x, y, z = sweep.points[:, :3].T
    ahead = (np.abs(y) < 3.0) & (x > 0) & (z > -1.5)
    np.testing.assert_allclose(x[ahead], 10.0, atol=0.08)
    assert sweep.hits[0] > 100 and sweep.hits[1] == 0


def test_points_of_a_turned_box_lie_in_it_and_are_counted(crowd_of: Callable) -> None:
    crowd = crowd_of((-9.0, 7.0, 0.6, (4.5, 1.9, 1.6)))
    sweep = Scanner(crowd, LEVEL).sweep(crowd.at(0.5), generator("sweep"))
    local = sweep.points[:, :2] - [-9.0, 7.0]
    cos, sin = np.cos(0.6), np.sin(0.6)
    along, across = local @ [cos, sin], local @ [-sin, cos]
    inside = (np.abs(along) <= 2.25) & (np.abs(across) <= 0.95)
    inside &= (sweep.points[:, 2] >= -1.78) & (sweep.points[:, 2] <= -0.2)
    assert inside.sum() == sweep.hits[0] > 20


def test_the_ground_is_flat_and_within_range(crowd_of: Callable) -> None:
    crowd = crowd_of((60.0, 60.0, 0.0, (1.0, 1.0, 1.0)))
    points = Scanner(crowd, LEVEL).sweep(crowd.at(0.5), generator("sweep")).points
    assert points.dtype == np.float32 and points.shape[1] == 5
    assert np.linalg.norm(points[:, :3], axis=1).max() <= RANGE_M + 0.05
    low = points[points[:, 2] < -1.5]
    np.testing.assert_allclose(low[:, 2], -1.8, atol=0.04)
    assert set(points[:, 4]) <= set(range(BEAMS))
