"""Paths, overlap of rectangles (against shapely) and quaternions (against pyquaternion)."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from pyquaternion import Quaternion
from shapely.geometry import Polygon

from qdbev.data.synthetic.geometry import Path, corners, multiply, overlap, rotation_matrix, yaw_quaternion

_pose = st.tuples(st.floats(-4, 4), st.floats(-4, 4), st.floats(-3.1, 3.1))
_side = st.floats(0.3, 6)


def test_a_path_goes_on_straight_beyond_its_ends() -> None:
    path = Path.through(np.array([[0.0, 0.0], [4.0, 0.0]]))
    np.testing.assert_allclose(path.at(np.array([-1.0, 1.0, 6.0])), [[-1, 0, 0], [1, 0, 0], [6, 0, 0]])


def test_shifting_left_of_a_path_northward_goes_west() -> None:
    path = Path.through(np.array([[0.0, 0.0], [0.0, 10.0]])).shifted(2.0)
    np.testing.assert_allclose(path.at(5.0), [-2, 5, np.pi / 2], atol=1e-12)


def test_a_reversed_path_comes_back() -> None:
    path = Path.through(np.array([[0.0, 0.0], [10.0, 0.0]]))
    x, y, yaw = path.reversed().at(-3.0)
    np.testing.assert_allclose([x, y, abs(yaw)], [3, 0, np.pi], atol=1e-12)


@given(_pose, _pose, _side, _side, _side, _side)
def test_overlap_agrees_with_shapely(a: tuple, b: tuple, la: float, wa: float, lb: float, wb: float) -> None:
    one = corners(np.array(a), length=la, width=wa)
    other = corners(np.array(b), length=lb, width=wb)
    area = Polygon(one).intersection(Polygon(other)).area
    if area > 1e-6:
        assert overlap(one, other[None])[0]
    elif Polygon(one).distance(Polygon(other)) > 1e-6:
        assert not overlap(one, other[None])[0]


@given(st.floats(-3, 3), st.floats(-3, 3))
def test_quaternions_agree_with_pyquaternion(a: float, b: float) -> None:
    p, q = yaw_quaternion(a), np.array([np.cos(b), np.sin(b), 0.0, 0.0])
    np.testing.assert_allclose(multiply(p, q), (Quaternion(p) * Quaternion(q)).elements, atol=1e-12)
    np.testing.assert_allclose(rotation_matrix(multiply(p, q)), rotation_matrix(p) @ rotation_matrix(q), atol=1e-12)
