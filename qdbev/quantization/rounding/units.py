"""The units of block reconstruction: the modules whose output is what their layers are judged by together.

BRECQ (Li et al., ICLR 2021, section 3.2) takes the blocks that a network is made of. Here they are found: a module with
two or more layers to round that is an element of a list of modules (a residual block, a layer of an encoder or decoder,
a branch of a head), the outermost such; and else one that holds none of these (a feature pyramid). What is in neither,
such as a stem, is a unit by itself.

A unit is run again from what it was called with, so calls are recorded whole: any arguments, tensors in lists, dicts
and dataclasses included.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn


class Unit(NamedTuple):
    """Layers that are rounded together.

    Attributes:
        path: path of the module.
        layers: paths of its layers.
    """

    path: str
    layers: tuple[str, ...]


class Call(NamedTuple):
    """One call of a module, its tensors copied to main memory.

    Attributes:
        args: what it was called with, by position.
        kwargs: and by name.
        output: what it returned.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any


def find_units(model: nn.Module, layers: Iterable[str], *, run: Callable[[], object]) -> list[Unit]:
    """Find the units of a model, in the order they run.

    Args:
        model: Any.
        layers: Paths of the layers to round; those that do not run are in no unit.
        run: Runs the model.
    """
    called = _called(model, run=run)
    ran = [path for path in layers if path in called]
    modules = dict(model.named_modules())
    listed = {f"{path}.{name}" for path, module in modules.items() if _is_list(module) for name in module._modules}
    listed = {path.removeprefix(".") for path in listed}
    inside = {path: tuple(layer for layer in ran if _within(layer, path)) for path in modules}
    fits = [path for path in called if len(inside[path]) > 1 and path]
    blocks = {path for path in fits if path in listed}
    blocks |= {path for path in fits if not any(_within(other, path) for other in blocks)}
    outer = {path for path in blocks if not any(other != path and _within(path, other) for other in blocks)}
    alone = {path for path in ran if not any(_within(path, block) for block in outer)}
    return [Unit(path, inside[path] or (path,)) for path in called if path in outer | alone]


def recorded(model: nn.Module, path: str, *, run: Callable[[], object]) -> list[Call]:
    """Run, and return the calls of the module at ``path``."""
    calls: list[Call] = []

    def record(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        calls.append(Call(*(map_tensors(value, _copied) for value in (args, kwargs, output))))

    handle = model.get_submodule(path).register_forward_hook(record, with_kwargs=True)
    try:
        run()
    finally:
        handle.remove()
    return calls


def map_tensors(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Return ``value`` with every tensor replaced, in dicts, lists, tuples and dataclasses too.

    >>> import torch
    >>> map_tensors({"a": [torch.tensor(1), 2]}, lambda x: x + 1)
    {'a': [tensor(2), 2]}
    """
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Mapping):
        return {name: map_tensors(entry, function) for name, entry in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(map_tensors(entry, function) for entry in value))
    if isinstance(value, list | tuple):
        return type(value)(map_tensors(entry, function) for entry in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value) if field.init]
        return dataclasses.replace(value, **{name: map_tensors(getattr(value, name), function) for name in names})
    return value


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield the tensors of ``value``, in the order ``map_tensors`` meets them."""
    tensors: list[Tensor] = []

    def note(x: Tensor) -> Tensor:
        tensors.append(x)
        return x

    map_tensors(value, note)
    yield from tensors


def _copied(x: Tensor) -> Tensor:
    """A copy: what comes later may write into the tensor, as ReLUs do."""
    return x.detach().to("cpu", copy=True)


def _called(model: nn.Module, *, run: Callable[[], object]) -> dict[str, None]:
    """Paths of the modules that were called and returned tensors, in the order they returned."""
    returned: dict[str, None] = {}

    def note(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if next(tensors_in(output), None) is not None:
                returned[path] = None

        return hook

    handles = [module.register_forward_hook(note(path)) for path, module in model.named_modules()]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return returned


def _is_list(module: nn.Module) -> bool:
    return isinstance(module, nn.ModuleList | nn.Sequential)


def _within(path: str, outer: str) -> bool:
    return path == outer or path.startswith(f"{outer}.")
