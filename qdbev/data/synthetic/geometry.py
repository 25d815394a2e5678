"""Plane geometry of the scenes: paths with arc length, rectangles and their overlap, quaternions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Path:
    """A polyline with arc length, metres. ``start`` is the arc length of the first point."""

    points: Array
    s: Array
    yaw: Array

    @classmethod
    def through(cls, points: Array, *, start: float = 0.0) -> Path:
        """A path through points of shape (M, 2)."""
        steps = np.diff(points, axis=0)
        s = start + np.concatenate([[0.0], np.cumsum(np.hypot(steps[:, 0], steps[:, 1]))])
        yaw = np.unwrap(np.arctan2(steps[:, 1], steps[:, 0]))
        return cls(points, s, np.append(yaw, yaw[-1]))

    def at(self, s: Array | float) -> Array:
        """Poses (..., 3) of x [m], y [m], yaw [rad] at arc length s; straight on beyond the ends."""
        s = np.asarray(s, dtype=np.float64)
        inside = np.clip(s, self.s[0], self.s[-1])
        x, y = (np.interp(inside, self.s, self.points[:, k]) for k in (0, 1))
        yaw = np.interp(inside, self.s, self.yaw)
        beyond = s - inside
        return np.stack([x + beyond * np.cos(yaw), y + beyond * np.sin(yaw), yaw], axis=-1)

    def shifted(self, left_m: float) -> Path:
        """The path at a constant distance to the left (negative: right), with its own arc length."""
        normal = np.stack([-np.sin(self.yaw), np.cos(self.yaw)], axis=1)
        moved = self.points + left_m * normal
        zero = int(np.argmin(np.abs(self.s)))
        path = Path.through(moved)
        return Path(path.points, path.s - path.s[zero] + self.s[zero], path.yaw)

    def reversed(self) -> Path:
        """The same path in the other direction; arc length changes sign."""
        return Path.through(self.points[::-1], start=-float(self.s[-1]))


def corners(poses: Array, *, length: Array | float, width: Array | float) -> Array:
    """Footprints (..., 4, 2), counter-clockwise, of rectangles at poses (..., 3)."""
    half_l, half_w = np.asarray(length)[..., None] / 2, np.asarray(width)[..., None] / 2
    x, y = half_l * np.array([1, -1, -1, 1]), half_w * np.array([1, 1, -1, -1])
    cos, sin = np.cos(poses[..., 2:3]), np.sin(poses[..., 2:3])
    return np.stack([poses[..., :1] + cos * x - sin * y, poses[..., 1:2] + sin * x + cos * y], axis=-1)


def overlap(one: Array, others: Array) -> NDArray[np.bool_]:
    """Whether rectangle (..., 4, 2) and rectangles (N, ..., 4, 2) share area, shape (N, ...).

    Separating axis test over the edge normals of both.

    >>> a = corners(np.array([0.0, 0.0, 0.0]), length=2.0, width=2.0)
    >>> b = corners(np.array([[1.5, 0.0, 0.0], [2.5, 0.0, 0.0]]), length=2.0, width=2.0)
    >>> overlap(a, b).tolist()
    [True, False]
    """
    one = np.broadcast_to(one, others.shape)
    apart = np.zeros(others.shape[:-2], dtype=bool)
    for rectangle in (one, others):
        for k in (0, 1):
            axis = rectangle[..., k + 1, :] - rectangle[..., k, :]
            p, q = (np.einsum("...ij,...j->...i", r, axis) for r in (one, others))
            apart |= (p.max(-1) <= q.min(-1)) | (q.max(-1) <= p.min(-1))
    return ~apart


def rotation_matrix(quaternion: Array) -> Array:
    """Rotation matrix (3, 3) of a quaternion (w, x, y, z)."""
    w, x, y, z = np.asarray(quaternion) / np.linalg.norm(quaternion)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def multiply(a: Array, b: Array) -> Array:
    """Hamilton product of quaternions (w, x, y, z): first b, then a."""
    aw, av, bw, bv = a[0], a[1:], b[0], b[1:]
    return np.concatenate([[aw * bw - av @ bv], aw * bv + bw * av + np.cross(av, bv)])


def yaw_quaternion(yaw: float) -> Array:
    """Quaternion (w, x, y, z) of a turn about z, radians."""
    return np.array([np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2)])
