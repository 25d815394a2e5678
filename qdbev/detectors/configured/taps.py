"""Taps: the modules of an mmdet3d detector whose outputs are its image and bird's-eye-view features.

Shapes: B key frames, N cameras, C channels, H W of a map, Q cells of the bird's-eye view, Y X its rows and columns.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from qdbev.detectors.features import Features

IMAGE, BEV = "image", "bev"


def check_taps(detector: nn.Module, *, taps: Mapping[str, str | None]) -> None:
    """Check that every tap is a module of the detector.

    Raises:
        ValueError: Naming the path, and the modules whose names are near.
    """
    known = [name for name, _ in detector.named_modules() if name]
    for name, path in taps.items():
        if path is None or path in known:
            continue
        near = difflib.get_close_matches(path, known, n=3, cutoff=0.5)
        children = [child for child, _ in detector.named_children() if child != "data_preprocessor"]
        hint = f"did you mean {' or '.join(near)}?" if near else f"its modules are {', '.join(children)}"
        raise ValueError(f"mmdet3d.taps.{name} is {path!r}, which is no module of {type(detector).__name__}; {hint}")


@contextmanager
def recorded(detector: nn.Module, *, taps: Mapping[str, str | None]) -> Iterator[dict[str, list[Tensor]]]:
    """While this lasts, what the tapped modules give is kept, call after call.

    The modules are looked up by path each time, since quantization puts others in their place.

    Yields:
        Tap -> tensors in the order they came; a list, tuple or dict that a module gives counts as its tensors.
    """
    records: dict[str, list[Tensor]] = {name: [] for name, path in taps.items() if path is not None}
    handles = [
        detector.get_submodule(str(taps[name])).register_forward_hook(
            lambda module, inputs, output, into=into: into.extend(_tensors(output))
        )
        for name, into in records.items()
    ]
    try:
        yield records
    finally:
        for handle in handles:
            handle.remove()


def features(records: Mapping[str, Sequence[Tensor]], *, tokens: Sequence[str]) -> Features:
    """What was recorded in one forward pass as features; a view mask is not known.

    Args:
        records: Tap -> tensors, from ``recorded``.
        tokens: Token of the key frame of each data sample, in the batch's order.

    Raises:
        ValueError: A tap gave nothing, or tensors of another shape than its kind has.
    """
    frames = list(dict.fromkeys(tokens))
    for name, tensors in records.items():
        if not tensors:
            raise ValueError(
                f"the module of mmdet3d.taps.{name} gave no tensor: it does not run in training; name one that does"
            )
    if len(tokens) % len(frames) or any(
        token != frames[index * len(frames) // len(tokens)] for index, token in enumerate(tokens)
    ):
        raise ValueError("the views of a batch are not key frame after key frame, each with as many; taps need that")
    image = [_by_camera(level, frames=len(frames)) for level in records[IMAGE]] if IMAGE in records else None
    bev = _one_map(records[BEV], frames=len(frames)) if BEV in records else None
    return Features(image, bev, None)


def _by_camera(level: Tensor, *, frames: int) -> Tensor:
    """A level (B, N, C, H, W), also from (B * N, C, H, W)."""
    if level.dim() == 5 and len(level) == frames:
        return level
    if level.dim() == 4 and len(level) % frames == 0:
        return level.unflatten(0, (frames, -1))
    raise ValueError(
        f"the module of mmdet3d.taps.image gave a tensor of shape {tuple(level.shape)} for {frames} key frames; "
        "expected (frames * cameras, channels, height, width), one a level"
    )


def _one_map(maps: Sequence[Tensor], *, frames: int) -> Tensor:
    """Features (B, Q, C), also from a map (B, C, Y, X)."""
    if len(maps) == 1 and len(maps[0]) == frames:
        if maps[0].dim() == 4:
            return maps[0].flatten(2).transpose(1, 2)
        if maps[0].dim() == 3:
            return maps[0]
    shapes = ", ".join(str(tuple(tensor.shape)) for tensor in maps)
    raise ValueError(
        f"the module of mmdet3d.taps.bev gave tensors of shapes {shapes} for {frames} key frames; expected one of "
        "(frames, channels, rows, columns) or (frames, cells, channels)"
    )


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping | list | tuple):
        for inner in output.values() if isinstance(output, Mapping) else output:
            yield from _tensors(inner)
