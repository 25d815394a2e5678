"""Suppression of turned rectangles against mmcv's kernel and shapely."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mmcv.ops import nms_rotated
from shapely import affinity, box

from qdbev.ops.rotated_suppression import overlaps, suppressed


def rectangles(count: int, *, seed: int, spread: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(count, 5, generator=generator, dtype=torch.float64)
    return drawn * torch.tensor([spread, spread, 5.0, 3.0, 6.3]) + torch.tensor([0.0, 0.0, 0.2, 0.2, -3.1])


def test_overlaps_are_those_of_shapely() -> None:
    boxes = rectangles(25, seed=0, spread=8.0)
    shapes = []
    for x, y, length, width, angle in boxes.tolist():
        flat = box(x - length / 2, y - width / 2, x + length / 2, y + width / 2)
        shapes.append(affinity.rotate(flat, angle, use_radians=True))
    expected = [[one.intersection(other).area / one.union(other).area for other in shapes] for one in shapes]
    np.testing.assert_allclose(overlaps(boxes).numpy(), expected, atol=1e-9)


@pytest.mark.parametrize("overlap", [0.05, 0.2, 0.5])
@pytest.mark.parametrize("seed", range(3))
def test_what_is_left_is_what_mmcv_leaves(overlap: float, seed: int) -> None:
    boxes = rectangles(80, seed=seed, spread=15.0)
    scores = torch.linspace(0.9, 0.1, 80)
    _, theirs = nms_rotated(boxes.float(), scores, overlap)
    assert suppressed(boxes, overlap=overlap).tolist() == theirs.tolist()
    assert 3 < len(theirs) < 80


def test_none_and_equal_ones() -> None:
    assert suppressed(torch.zeros(0, 5), overlap=0.2).tolist() == []
    same = torch.tensor([[1.0, 2, 3, 4, 0.5]]).expand(3, 5)
    assert suppressed(same, overlap=0.99).tolist() == [0]
    flat = torch.tensor([[0.0, 0, 0, 0, 0], [0, 0, 1, 1, 0]])  # without an area nothing is shared
    assert suppressed(flat, overlap=0.2).tolist() == [0, 1]
