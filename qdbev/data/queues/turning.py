"""Turn the lidar frame of an item about its z axis: boxes, projections and vehicle motion together.

An augmentation that BEVFormer does not have (BEVDet's "BEV data augmentation", arXiv:2112.11790, is its relative). The
images stay; the bird's-eye grid lies turned on the scene. In the turned frame the vehicle is one whose body axes are
turned by the same angle: its heading falls by the angle, its velocity, acceleration and rotation rate are turned. All
frames of a queue are turned alike, so the change of heading between them (can_bus entry 17) stays. Boxes and
projections are exact; motion is exact where the z axes of lidar and ego are parallel, which BEVFormer's use of it
assumes anyway.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray


def turn_boxes(boxes: NDArray[Any], *, angle: float) -> NDArray[Any]:
    """Boxes (M, 9) x, y, z, length, width, height, yaw, vx, vy turned by ``angle`` radians, counter-clockwise.

    >>> turn_boxes(np.array([[1.0, 2, 3, 4, 2, 1, 0.5, 5, 0]]), angle=math.pi / 2).round(3).tolist()
    [[-2.0, 1.0, 3.0, 4.0, 2.0, 1.0, 2.071, 0.0, 5.0]]
    """
    turned = boxes.copy()
    turn = _turn(angle)
    turned[:, 0:2] = boxes[:, 0:2] @ turn[:2, :2].T
    turned[:, 6] += angle
    turned[:, 7:9] = boxes[:, 7:9] @ turn[:2, :2].T
    return turned


def turn_projection(lidar2img: NDArray[Any], *, angle: float) -> NDArray[Any]:
    """Projections (N, 4, 4) for points of the turned frame: the old ones after turning back."""
    back = np.eye(4)
    back[:3, :3] = _turn(-angle)
    return lidar2img @ back


def turn_can_bus(can_bus: NDArray[np.float32], *, angle: float) -> NDArray[np.float32]:
    """The 18 motion values of the turned vehicle; entries 0:3 (global) and 17 (a difference) stay."""
    turned = can_bus.astype(np.float64)
    w, x, y, z = turned[3:7]
    cos, sin = math.cos(angle / 2), -math.sin(angle / 2)
    turned[3:7] = w * cos - z * sin, x * cos + y * sin, y * cos - x * sin, w * sin + z * cos
    for start in (7, 10, 13):
        turned[start : start + 3] = _turn(angle) @ turned[start : start + 3]
    turned[16] = (turned[16] - angle) % (2 * math.pi)
    return turned.astype(np.float32)


def _turn(angle: float) -> NDArray[np.float64]:
    cos, sin = math.cos(angle), math.sin(angle)
    return np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
