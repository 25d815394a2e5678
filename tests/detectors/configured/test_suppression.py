"""mmcv's suppression of turned boxes is not watched pair by pair, and gives what it gives elsewhere."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from mmcv.ops import nms_rotated
from torch.utils._python_dispatch import TorchDispatchMode

from qdbev.detectors.configured.suppression import unwatched_suppression


class Watcher(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen += 1
        return function(*args, **(kwargs or {}))


def suppressed(count: int) -> tuple[int, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    boxes, scores = torch.rand(count, 5, generator=generator) * 8 + 1, torch.rand(count, generator=generator)
    with Watcher() as watcher:
        dets, places = nms_rotated(boxes, scores, 0.3)
    return watcher.seen, dets, places


def test_pairs_are_not_seen_and_boxes_are_the_same() -> None:
    watched, *expected = suppressed(60)
    with unwatched_suppression():
        unwatched, *given = suppressed(60)
        _, *twice = suppressed(60)
    assert watched > 1000 and unwatched < 20
    assert 0 < len(expected[1]) < 60
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(expected, given, twice, strict=True))
    assert suppressed(60)[0] == watched  # outside all is as before


def test_what_fails_leaves_mmcv_as_it_was() -> None:
    with pytest.raises(RuntimeError, match="no boxes"), unwatched_suppression():
        raise RuntimeError("no boxes")
    assert suppressed(20)[0] > 100
