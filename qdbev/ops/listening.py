"""Listening to where deformable attention looks: its compiled kernels read tensors past torch's dispatcher."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor

Listener = Callable[[Tensor, Tensor, Sequence[tuple[int, int]]], None]
"""Takes references (..., 2) in fractions of the image, offsets (..., 2) in pixels, and (H, W) of each level."""

_LISTENERS: list[Listener] = []


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Tell a listener of every call of ``deformable_attention``, before it samples.

    Args:
        listener: What is told; it changes nothing.
    """
    _LISTENERS.append(listener)
    try:
        yield
    finally:
        _LISTENERS.remove(listener)


def tell_listeners(references: Tensor, offsets: Tensor, level_shapes: Sequence[tuple[int, int]]) -> None:
    """Tell those who listen, in the order that they came."""
    for listener in _LISTENERS:
        listener(references, offsets, level_shapes)
