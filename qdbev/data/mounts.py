"""How cameras stand on a vehicle, for scenes that are made and for costs that are counted without data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pyquaternion import Quaternion

FULL_PX = (1600, 900)
"""Width and height that ``Mount.lens`` is told for."""
_HEIGHT_M, _VIEW_DEGREES = 1.6, 70.0


@dataclass(frozen=True)
class Mount:
    """One camera in the vehicle's frame: x ahead, y to the left, z up, metres."""

    channel: str
    translation: tuple[float, float, float]
    rotation: tuple[float, float, float, float]
    """Quaternion w, x, y, z of the camera's axes: x right, y down, z ahead."""
    lens: tuple[float, float, float]
    """Focal length and principal point in pixels of an image of ``FULL_PX``."""


def looking(
    channel: str,
    *,
    position_m: Sequence[float],
    heading_degrees: float,
    tilt_degrees: float = 0.0,
    view_degrees: float = _VIEW_DEGREES,
) -> Mount:
    """A camera by where it looks.

    Args:
        channel: Its name.
        position_m: Its place.
        heading_degrees: 0 ahead, 90 to the left.
        tilt_degrees: How far it looks down.
        view_degrees: Angle from the left edge of its image to the right one.

    >>> looking("A", position_m=(1, 0, 2), heading_degrees=0).rotation
    (0.5, -0.5, 0.5, -0.5)
    """
    heading, tilt = np.deg2rad([heading_degrees, tilt_degrees])
    ahead = np.array([np.cos(heading) * np.cos(tilt), np.sin(heading) * np.cos(tilt), -np.sin(tilt)])
    right = np.array([np.sin(heading), -np.cos(heading), 0.0])
    turn = Quaternion(matrix=np.stack([right, np.cross(ahead, right), ahead], axis=1))
    width, height = FULL_PX
    x, y, z = map(float, position_m)
    w, i, j, k = (round(float(value), 9) + 0.0 for value in turn.elements)
    focal = width / 2 / float(np.tan(np.deg2rad(view_degrees) / 2))
    return Mount(channel, (x, y, z), (w, i, j, k), (focal, width / 2, height / 2))


def evenly_around(channels: Sequence[str]) -> tuple[Mount, ...]:
    """Cameras that look to all sides, the first ahead, the others clockwise: what stands for mounts nobody stated."""
    step = 360 / len(channels)
    return tuple(
        looking(channel, position_m=(0.0, 0.0, _HEIGHT_M), heading_degrees=-step * place)
        for place, channel in enumerate(channels)
    )


def lidar_to_images(
    mounts: Sequence[Mount], *, lidar2ego: NDArray[np.float64], image_size_px: tuple[int, int], scale: float = 1.0
) -> NDArray[np.float64]:
    """(N, 4, 4) LiDAR metres to pixels.

    Args:
        mounts: Of the cameras.
        lidar2ego: (4, 4).
        image_size_px: Width and height of the images; the field of view stays.
        scale: Factor on both sides of the image, as the network's input has it.
    """
    factors = [scale * own / full for own, full in zip(image_size_px, FULL_PX, strict=True)]
    matrices = []
    for mount in mounts:
        focal, cx, cy = mount.lens
        intrinsic = np.eye(4)
        intrinsic[0, 0] = intrinsic[1, 1] = focal * factors[0]  # square pixels
        intrinsic[0, 2], intrinsic[1, 2] = cx * factors[0], cy * factors[1]
        matrices.append(intrinsic @ np.linalg.inv(pose(mount.translation, rotation=mount.rotation)) @ lidar2ego)
    return np.stack(matrices)


def pose(translation: Sequence[float], *, rotation: Sequence[float]) -> NDArray[np.float64]:
    """(4, 4) of a place and a quaternion w, x, y, z, which is brought to length 1."""
    matrix: NDArray[np.float64] = Quaternion(rotation).normalised.transformation_matrix
    matrix[:3, 3] = translation
    return matrix
