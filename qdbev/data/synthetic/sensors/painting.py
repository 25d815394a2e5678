"""In which order to paint: the footprints of two things tell which of them can hide the other."""

from __future__ import annotations

import heapq

import numpy as np
from numpy.typing import NDArray

from qdbev.data.synthetic.geometry import Array


def cannot_hide(footprints: Array, eye: Array) -> NDArray[np.bool_]:
    """(N, N): thing i cannot hide thing j, since a line along a side of one of them parts both, the eye with j.

    Args:
        footprints: Convex, counter-clockwise, (N, 4, 2).
        eye: (2,).
    """
    edges = np.roll(footprints, -1, axis=1) - footprints
    normals = np.stack([edges[..., 1], -edges[..., 0]], axis=-1)  # outward
    offsets = np.einsum("nkd,nkd->nk", normals, footprints)
    heights = np.einsum("nkd,mcd->nkmc", normals, footprints).min(-1) - offsets[..., None]
    beyond = heights >= -1e-3  # (i, edge, j): j lies outside this side of i
    eye_beyond = np.einsum("nkd,d->nk", normals, eye) > offsets
    behind = (beyond & eye_beyond[..., None]).any(1)
    before = (beyond & ~eye_beyond[..., None]).any(1)
    return behind | before.T


def paint_order(footprints: Array, eye: Array) -> list[int]:
    """Indices from back to front: farther first, but never a thing after one that it may not cover.

    >>> near, far = np.array([[1.0, -1], [2, -1], [2, 1], [1, 1]]), np.array([[5.0, -1], [6, -1], [6, 1], [5, 1]])
    >>> paint_order(np.array([near, far]), np.zeros(2))
    [1, 0]
    """
    count = len(footprints)
    if count == 0:
        return []
    free = cannot_hide(footprints, eye)
    gap = np.linalg.norm(footprints - eye, axis=-1)
    gap = (gap.min(1) + gap.mean(1)) / 2
    first = free & ~free.T  # i must be painted before j
    waiting = first.sum(0).tolist()
    followers = [np.flatnonzero(row).tolist() for row in first]
    heap = [(-gap[i], i) for i in range(count) if waiting[i] == 0]
    heapq.heapify(heap)
    done = [False] * count
    order: list[int] = []
    rest = np.argsort(-gap).tolist()
    while len(order) < count:
        if not heap:  # a cycle: the farthest goes first
            heapq.heappush(heap, next((-gap[i], i) for i in rest if not done[i]))
        i = heapq.heappop(heap)[1]
        if done[i]:
            continue
        done[i] = True
        order.append(i)
        for j in followers[i]:
            waiting[j] -= 1
            if waiting[j] == 0 and not done[j]:
                heapq.heappush(heap, (-gap[j], j))
    return order
