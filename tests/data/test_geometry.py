"""Rigid transforms against pyquaternion, projection and corners by hand."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from pyquaternion import Quaternion

from qdbev.data.geometry import box_corners, invert_rigid, lidar_to_image, project_points, rigid, rotation_matrices

UNIT = st.tuples(*[st.floats(-1, 1)] * 4).filter(lambda q: sum(v * v for v in q) > 0.1)
METRES = st.tuples(*[st.floats(-2000, 2000)] * 3)


@given(UNIT)
def test_rotation_is_that_of_pyquaternion(values: tuple[float, ...]) -> None:
    np.testing.assert_allclose(rotation_matrices(values), Quaternion(values).normalised.rotation_matrix, atol=1e-12)


@given(UNIT, METRES, METRES)
def test_inverse_undoes(values: tuple[float, ...], moved: tuple[float, ...], point: tuple[float, ...]) -> None:
    matrix = rigid(values, translation=moved)
    np.testing.assert_allclose(invert_rigid(matrix) @ matrix @ [*point, 1], [*point, 1], atol=1e-8)


def test_projection_by_hand() -> None:
    # camera at the lidar's origin looking along lidar y: camera x = lidar x, camera y = -z, camera z = y
    lidar2cam = np.array([[1, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1.0]])
    matrix = lidar_to_image(np.array([[100, 0, 50], [0, 200, 40], [0, 0, 1.0]]), lidar2cam=lidar2cam)
    pixels, depth = project_points([[1, 10, 2], [0, 5, -1], [0, -5, 0]], lidar2img=matrix)
    assert depth.tolist() == [10, 5, -5]
    np.testing.assert_allclose(pixels[:2], [[60, 0], [50, 80]])


def test_corners_by_hand() -> None:
    corners = box_corners([[10, 20, 1, 4, 2, 1.5, math.pi / 2]])[0]
    assert corners.shape == (8, 3)
    # turned by 90 degrees, the length of 4 m lies along y
    np.testing.assert_allclose(corners.min(axis=0), [9, 18, 0.25])
    np.testing.assert_allclose(corners.max(axis=0), [11, 22, 1.75])
