"""Rigid transforms of nuScenes frames (global, ego, sensor) as 4x4 matrices, and points into pixels.

A matrix named ``a2b`` takes homogeneous coordinates of frame a to frame b. Quaternions are (w, x, y, z).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def rotation_matrices(quaternions: ArrayLike) -> Array:
    """Rotation matrices (..., 3, 3) of quaternions (..., 4), which are normalised first.

    >>> rotation_matrices([0.5 ** 0.5, 0, 0, 0.5 ** 0.5]).round().astype(int).tolist()
    [[0, -1, 0], [1, 0, 0], [0, 0, 1]]
    """
    unit = np.asarray(quaternions, dtype=np.float64)
    unit = unit / np.linalg.norm(unit, axis=-1, keepdims=True)
    w, x, y, z = np.moveaxis(unit, -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def rigid(rotation: Sequence[float], *, translation: Sequence[float]) -> Array:
    """The 4x4 matrix of a nuScenes pose or calibration record (rotation w, x, y, z; translation in metres)."""
    matrix = np.eye(4)
    matrix[:3, :3] = rotation_matrices(rotation)
    matrix[:3, 3] = translation
    return matrix


def invert_rigid(matrix: Array) -> Array:
    """Inverse (..., 4, 4) of rigid transforms, by the transpose of the rotation.

    >>> moved = rigid([0.5 ** 0.5, 0, 0, 0.5 ** 0.5], translation=[1, 2, 3])
    >>> (invert_rigid(moved) @ [1, 3, 3, 1]).round().astype(int).tolist()
    [1, 0, 0, 1]
    """
    inverse = np.zeros_like(matrix)
    turn = np.swapaxes(matrix[..., :3, :3], -1, -2)
    inverse[..., :3, :3] = turn
    inverse[..., :3, 3] = -(turn @ matrix[..., :3, 3:])[..., 0]
    inverse[..., 3, 3] = 1.0
    return inverse


def lidar_to_image(cam2img: Array, *, lidar2cam: Array) -> Array:
    """Projection (..., 4, 4) of lidar points into pixels: the padded intrinsic times ``lidar2cam``."""
    padded = np.zeros_like(lidar2cam)
    padded[..., :3, :3] = cam2img
    padded[..., 3, 3] = 1.0
    return padded @ lidar2cam


def project_points(points: ArrayLike, *, lidar2img: Array) -> tuple[Array, Array]:
    """Pixels (P, 2) and depths in metres (P,) of lidar points (P, 3); a depth of zero or less is behind the camera."""
    places = np.asarray(points, dtype=np.float64)[:, :3]
    homogeneous = np.concatenate([places, np.ones((len(places), 1))], axis=1)
    projected = homogeneous @ lidar2img.T
    depth = projected[:, 2]
    return projected[:, :2] / np.maximum(depth, 1e-5)[:, None], depth


def box_corners(boxes: ArrayLike) -> Array:
    """Corners (M, 8, 3) of boxes (M, >=7): gravity centre, length, width, height, yaw counter-clockwise from x."""
    box = np.asarray(boxes, dtype=np.float64)
    signs = np.array([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)])
    local = signs[None] * box[:, None, 3:6]
    cos, sin = np.cos(box[:, 6])[:, None], np.sin(box[:, 6])[:, None]
    x = cos * local[..., 0] - sin * local[..., 1]
    y = sin * local[..., 0] + cos * local[..., 1]
    return np.stack([x, y, local[..., 2]], axis=-1) + box[:, None, :3]
