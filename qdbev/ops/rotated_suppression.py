"""Greedy suppression of turned rectangles by their overlap, compiled by numba, on the CPU.

mmcv's kernel for CPUs looks at every pair through operations of torch: a second for 500 boxes, and minutes where
operations are watched.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

Array = np.ndarray[Any, Any]
_CORNERS = 4
_MOST_POINTS = 16  # of the polygon that two rectangles share, with room


def suppressed(boxes_J5: Tensor, *, overlap: float) -> Tensor:
    """Indices of the rectangles that are left, in order.

    Args:
        boxes_J5: Best first: centre x, y, length, width, and the angle of the length, counter-clockwise from x.
        overlap: A rectangle goes whose intersection over union with a better one that is left is above this.

    >>> boxes = torch.tensor([[0.0, 0, 4, 2, 0], [1, 0, 4, 2, 0], [0, 3, 4, 2, 0]])
    >>> suppressed(boxes, overlap=0.5).tolist(), suppressed(boxes, overlap=0.7).tolist()
    ([0, 2], [0, 1, 2])
    """
    boxes = boxes_J5.detach().cpu().double().numpy()
    return torch.from_numpy(_left(boxes, overlap)).to(boxes_J5.device)


def overlaps(boxes_J5: Tensor) -> Tensor:
    """Intersection over union of every pair (J, J), as ``suppressed`` takes it."""
    boxes = boxes_J5.detach().cpu().double().numpy()
    pairs = [[_overlap(_corners(one), _corners(other), one, other) for other in boxes] for one in boxes]
    return torch.tensor(pairs, dtype=torch.float64).view(len(boxes), len(boxes))


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # no folder to keep the compiled code in
        return numba.njit(nogil=True)(function)


@_compiled
def _corners(box: Array) -> Array:
    """(4, 2) corners, counter-clockwise."""
    cosine, sine = np.cos(box[4]), np.sin(box[4])
    corners = np.empty((_CORNERS, 2))
    for number in range(_CORNERS):
        along = box[2] / 2 if number in (0, 3) else -box[2] / 2
        across = box[3] / 2 if number in (0, 1) else -box[3] / 2
        corners[number, 0] = box[0] + cosine * along - sine * across
        corners[number, 1] = box[1] + sine * along + cosine * across
    return corners


@_compiled
def _area(points: Array, count: int) -> float:
    total = 0.0
    for here in range(count):
        after = (here + 1) % count
        total += points[here, 0] * points[after, 1] - points[after, 0] * points[here, 1]
    return total / 2


@_compiled
def _shared_area(first: Array, second: Array) -> float:
    """Area of what two convex polygons share: the first, cut by each side of the second (Sutherland and Hodgman)."""
    points, count = np.empty((_MOST_POINTS, 2)), _CORNERS
    points[:_CORNERS] = first
    for side in range(_CORNERS):
        x, y = second[side]
        dx, dy = second[(side + 1) % _CORNERS, 0] - x, second[(side + 1) % _CORNERS, 1] - y
        cut, left = np.empty((_MOST_POINTS, 2)), 0
        for here in range(count):
            after = (here + 1) % count
            inner = dx * (points[here, 1] - y) - dy * (points[here, 0] - x)
            next_inner = dx * (points[after, 1] - y) - dy * (points[after, 0] - x)
            if inner >= 0:
                cut[left] = points[here]
                left += 1
            if (inner >= 0) != (next_inner >= 0):
                cut[left] = points[here] + (points[after] - points[here]) * (inner / (inner - next_inner))
                left += 1
        points, count = cut, left
    return _area(points, count)


@_compiled
def _overlap(first: Array, second: Array, box: Array, other: Array) -> float:
    reach = np.hypot(box[2], box[3]) + np.hypot(other[2], other[3])
    if 2 * np.hypot(box[0] - other[0], box[1] - other[1]) > reach:
        return 0.0
    shared = _shared_area(first, second)
    return shared / max(box[2] * box[3] + other[2] * other[3] - shared, 1e-12)


@_compiled
def _left(boxes: Array, overlap: float) -> Array:
    count = len(boxes)
    corners = np.empty((count, _CORNERS, 2))
    for number in range(count):
        corners[number] = _corners(boxes[number])
    gone = np.zeros(count, dtype=np.bool_)
    for better in range(count):
        if gone[better]:
            continue
        for worse in range(better + 1, count):
            if not gone[worse]:
                shared = _overlap(corners[better], corners[worse], boxes[better], boxes[worse])
                gone[worse] = shared > overlap
    return np.nonzero(~gone)[0]
