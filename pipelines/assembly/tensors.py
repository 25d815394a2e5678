"""Tensors by name in a safetensors file: one that has several names is written once, its other names in the header.

Shipped weights may be bytes: an int8 tensor with a scale for each of its first indices, under its name and ``:scale``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from qdbev.quantization import memory_of

_SCALE, _MOST = ":scale", 127


def write_tensors(path: Path, state: Mapping[str, Tensor]) -> None:
    """Write a state dict; the header says which name each alias stands for, as ``safetensors.torch.save_model`` does.

    Args:
        path: The file.
        state: Tensors on any device; those that begin at the same number with the same shape are one.
    """
    first: dict[object, str] = {}
    aliases: dict[str, str] = {}
    for name, value in state.items():
        identity = (memory_of(value), value.shape, value.stride()) if value.numel() else name
        if first.setdefault(identity, name) != name:
            aliases[name] = first[identity]
    tensors = {name: state[name].detach().cpu().contiguous() for name in state if name not in aliases}
    overlapping = len({value.untyped_storage().data_ptr() for value in tensors.values()}) < len(tensors)
    if overlapping:  # views, which safetensors refuses
        tensors = {name: value.clone() for name, value in tensors.items()}
    save_file(tensors, path, metadata=aliases or None)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """What ``write_tensors`` wrote; bytes as the floats that they stand for."""
    state = load_file(path)
    scales = {name: state.pop(name) for name in list(state) if name.endswith(_SCALE)}
    for name, scale in scales.items():
        whole = state[name.removesuffix(_SCALE)]
        state[name.removesuffix(_SCALE)] = whole * scale.view(-1, *[1] * (whole.dim() - 1))
    return state


def in_bytes(state: Mapping[str, Tensor], *, names: Iterable[str]) -> dict[str, Tensor]:
    """A state dict with some tensors in bytes, as ``read_tensors`` takes it; their steps are at most 1/127 of a row."""
    smaller = dict(state)
    for name in names:
        value = state[name].detach()
        scale = value.abs().flatten(1).amax(1).clamp(min=torch.finfo(value.dtype).tiny) / _MOST
        smaller[name] = (value / scale.view(-1, *[1] * (value.dim() - 1))).round().to(torch.int8)
        smaller[f"{name}{_SCALE}"] = scale
    return smaller


def with_aliases(state: Mapping[str, Tensor], *, model: nn.Module) -> dict[str, Tensor]:
    """A state dict with what a model holds under several names under all of them, where one is there."""
    complete = dict(state)
    for same in names_of_each(model):
        there = [state[name] for name in same if name in state]
        for name in same if there else ():
            complete.setdefault(name, there[0])
    return complete


def names_of_each(model: nn.Module) -> list[list[str]]:
    """The names of each tensor of a model's state dict; most have one."""
    names: dict[object, list[str]] = {}
    for name, value in model.state_dict(keep_vars=True).items():
        names.setdefault((memory_of(value), value.shape), []).append(name)
    return list(names.values())


def unlike_copies(state: Mapping[str, Tensor], *, model: nn.Module) -> list[str]:
    """Names under which a state dict has other numbers than under the first name of what a model holds once."""
    return [
        name
        for first, *others in names_of_each(model)
        for name in others
        if name in state and first in state and not torch.equal(state[name], state[first])
    ]
