"""Where a cut image's pixels come from, and how far the nearest LiDAR point of each pixel is.

BEVDepth (arXiv 2206.10092) section 4.2 as its official code computes it: points in the middle of an image, whole pixels
by cutting off, later points over earlier ones, then the nearest of every square of pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_COLUMNS = 5  # x, y, z, intensity, ring of a nuScenes sweep
_POINT_BYTES = 4 * _COLUMNS
_BORDER_PX = 1


def read_points(path: Path) -> NDArray[np.float32]:
    """(M, 3) points of a nuScenes LiDAR file, metres in its own frame.

    Raises:
        ValueError: It is missing, or no such file.
    """
    try:
        values = np.fromfile(path, dtype=np.float32)
    except OSError as error:
        raise ValueError(
            f"LiDAR file {path} cannot be read ({error.strerror}), and depths are learned from it; unpack it, or set "
            "model.depth.weight=0 to train without depths"
        ) from error
    if values.size == 0 or values.size % _COLUMNS:
        raise ValueError(
            f"LiDAR file {path} holds {values.size} numbers, not {_COLUMNS} a point; unpack it again, or set "
            "model.depth.weight=0 to train without depths"
        )
    if not values.any():
        raise ValueError(
            f"LiDAR file {path} holds nothing but zeros, and depths are learned from it; unpack the points, or set "
            "model.depth.weight=0 to train without depths"
        )
    return values.reshape(-1, _COLUMNS)[:, :3]


def refuse_missing_points(samples: Sequence[Mapping[str, Any]], *, root: Path) -> None:
    """Look for the LiDAR files of all samples before a training begins.

    Raises:
        ValueError: The data have no LiDAR in whose frame boxes are, or files are missing, or too small for a point.
    """
    names = [str(sample["lidar_path"]) for sample in samples]
    advice = "model.depth.weight=0 to train without depths"
    if not all(names):
        raise ValueError(
            f"depths are learned from LiDAR points, and data.rig has no LiDAR in whose frame boxes are; set {advice}"
        )
    if dummies := [name for name in names if _size_bytes(root / name) < _POINT_BYTES]:
        raise ValueError(
            f"depths are learned from LiDAR points, and {len(dummies)} of {len(names)} LiDAR files in {root} are "
            f"missing or without any, first {dummies[0]}; unpack them, or set {advice}"
        )


def _size_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def points_to_pixels(
    points_M3: NDArray[Any], *, image: dict[str, Any], scale: float, size_px: tuple[int, int]
) -> NDArray[np.float64]:
    """(K, 3) pixel x, y of the network's input and depth of the points that a camera sees, in their order.

    Args:
        points_M3: In the LiDAR's frame.
        image: The camera's entry of a sample.
        scale: Factor on the image before it is cut.
        size_px: Width and height of the cut.
    """
    matrix = np.asarray(image["lidar2cam"], dtype=np.float64)
    seen = (points_M3 @ matrix[:3, :3].T + matrix[:3, 3]) @ np.asarray(image["cam2img"], dtype=np.float64).T
    depth = seen[:, 2]
    seen, depth = seen[depth > 0], depth[depth > 0]
    taken = np.stack([seen[:, 0] / depth, seen[:, 1] / depth, depth, np.ones_like(depth)], -1)
    width, height = image["width"], image["height"]
    inside = (taken[:, :2] > _BORDER_PX).all(-1) & (taken[:, 0] < width - _BORDER_PX)
    inside &= taken[:, 1] < height - _BORDER_PX
    placed = taken[inside] @ image_matrix((width, height), scale=scale, size_px=size_px).T
    return np.asarray(placed[:, :3])


def nearest_depths(points_K3: NDArray[Any], *, size_px: tuple[int, int], stride: int) -> NDArray[np.float32]:
    """(H / stride, W / stride) depth of the nearest point of every square of pixels, 0 where there is none.

    >>> points = np.array([[3.9, 0.5, 7.0], [0.2, 0.1, 9.0], [0.9, 0.8, 8.0], [4.5, 0, 1.0]])
    >>> nearest_depths(points, size_px=(4, 2), stride=2).tolist()  # a pixel keeps its last point
    [[8.0, 7.0]]
    """
    width, height = size_px
    whole = np.zeros((height, width), dtype=np.float32)
    cells = np.trunc(points_K3[:, :2]).astype(np.int64)
    inside = ((cells >= 0) & (cells < [width, height])).all(-1) & (points_K3[:, 2] > 0)
    whole[cells[inside, 1], cells[inside, 0]] = points_K3[inside, 2]
    squares = whole.reshape(height // stride, stride, width // stride, stride)
    nearest = np.where(squares == 0, np.inf, squares).min((1, 3))
    return np.where(np.isinf(nearest), 0, nearest).astype(np.float32)


def crop_corner(taken_px: tuple[int, int], *, scale: float, size_px: tuple[int, int]) -> tuple[int, int]:
    """Upper left corner (x, y) of what is cut from an image scaled to ``int(side * scale)``: the middle of its bottom.

    >>> [crop_corner((1600, 900), scale=scale, size_px=(704, 256)) for scale in (0.48, 0.44)]
    [(32, 176), (0, 140)]
    """
    width, height = (int(side * scale) for side in taken_px)
    return max(0, width - size_px[0]) // 2, height - size_px[1]


def image_matrix(taken_px: tuple[int, int], *, scale: float, size_px: tuple[int, int]) -> NDArray[np.float64]:
    """(4, 4) pixels of the image as taken to those of the network's input, by the exact scale."""
    x, y = crop_corner(taken_px, scale=scale, size_px=size_px)
    matrix = np.diag([scale, scale, 1.0, 1.0])
    matrix[:2, 3] = -x, -y
    return matrix
