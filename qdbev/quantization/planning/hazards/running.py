"""The watch itself: hooks on modules, torch's dispatcher and the listener of deformable attention, for one run."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from qdbev.ops import listening
from qdbev.quantization.planning.hazards.hazard import Hazard
from qdbev.quantization.planning.hazards.layers import (
    Finding,
    Logits,
    Numbers,
    Places,
    Shared,
    channel_magnitudes,
    is_pointwise,
    narrow,
)
from qdbev.quantization.planning.hazards.operations import MIXES, Operation, division_of, fill_of, line_of_code, mix_of
from qdbev.quantization.planning.hazards.origins import Mix, Origin, Origins
from qdbev.quantization.planning.hazards.spreads import Range, measurable, range_of
from qdbev.quantization.planning.policy import classify, is_deformable_conv
from qdbev.quantization.planning.products import arguments_of

Kind = TypeVar("Kind", bound=Finding)


class RunWatch:
    """Sees what one run computes, and keeps ranges and findings of what may quantize badly."""

    def __init__(self, model: nn.Module) -> None:
        """Watches nothing yet."""
        self._modules = dict(model.named_modules())
        projections = {
            f"{path}.out_proj" for path, module in self._modules.items() if isinstance(module, nn.MultiheadAttention)
        }
        kinds = {path: classify(module)[0] for path, module in self._modules.items() if path not in projections}
        self._layers = {path for path, kind in kinds.items() if kind not in ("float", "embedding")}
        self._origins = Origins(model.parameters())
        self._running: list[str] = []
        self._inside = 0  # so many layers deep
        self._operations: dict[tuple[str, str, str], Operation] = {}
        self._findings: dict[tuple[type, str], Finding] = {}

    def of_operations(self) -> list[Hazard]:
        """Return the hazards of single operations."""
        return [operation.hazard(layer=layer, line=line) for (_, layer, line), operation in self._operations.items()]

    def findings(self) -> list[Finding]:
        """Return what was seen of layers, which their bits judge."""
        return list(self._findings.values())

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Watch what runs meanwhile."""
        with contextlib.ExitStack() as held:
            for path, module in self._modules.items():
                held.callback(module.register_forward_pre_hook(partial(self._begins, path), with_kwargs=True).remove)
                held.callback(module.register_forward_hook(partial(self._ends, path)).remove)
            held.enter_context(listening(self._places))
            held.enter_context(_Operations(self._runs))
            yield

    def _begins(self, path: str, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if path in self._layers:
            with _disable_current_modes(), torch.no_grad():
                self._see_layer(path, module, [*args, *kwargs.values()])
            self._inside += 1
        self._running.append(path)

    def _see_layer(self, path: str, module: nn.Module, arguments: Sequence[Any]) -> None:
        inputs = [value for value in arguments if measurable(value) and value.numel()]
        for x in inputs if isinstance(module, nn.MultiheadAttention) else inputs[:1]:
            self._see_input(path, module, x)
        if is_deformable_conv(module):
            for offsets in inputs[1:2]:
                self._see_places(offsets, "offsets of a deformable convolution", px=range_of(offsets))
        if projection := narrow(module, layer=path):
            self._seen(projection)

    def _see_input(self, path: str, module: nn.Module, x: Tensor) -> None:
        origin = self._origins.of(x)
        if origin.mix is not None:
            shared = self._seen(Shared(path, origin.mix))
            shared.mix = max(shared.mix, origin.mix, key=lambda mix: mix.largest / mix.smallest)
            shared.input.widen(range_of(x))
        if origin.form == "logit x":
            self._seen(Logits(path)).input.widen(range_of(x))
        elif not origin.learned and (isinstance(module, nn.Linear) or is_pointwise(module)):
            numbers = self._seen(Numbers(path))
            numbers.input.widen(range_of(x))
            numbers.channels = torch.maximum(numbers.channels, channel_magnitudes(x, module))

    def _seen(self, finding: Kind) -> Kind:
        """The finding of the same kind on the same layer, where there is one already."""
        return cast(Kind, self._findings.setdefault((type(finding), finding.layer), finding))

    def _ends(self, path: str, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._running.pop()
        if path not in self._layers:
            return
        self._inside -= 1
        with _disable_current_modes(), torch.no_grad():
            for tensor in filter(measurable, tree_leaves(output)):
                self._origins.note(tensor, Origin(frozenset({path}), learned=True))
                if any(is_deformable_conv(self._modules[outer]) for outer in self._running):
                    self._see_places(tensor, "offsets of a deformable convolution", px=range_of(tensor))

    def _see_places(self, tensor: Tensor, what: str, *, px: Range) -> None:
        """Coordinates are used: what is known of the layers that they come from."""
        for layer in self._origins.of(tensor).sources:
            places = self._seen(Places(layer, what))
            if places.what == what:
                places.px.widen(px)

    def _places(self, references: Tensor, offsets: Tensor, level_shapes: Sequence[tuple[int, int]]) -> None:
        """Deformable attention looks."""
        with _disable_current_modes(), torch.no_grad():
            self._see_places(offsets, "offsets of deformable sampling", px=range_of(offsets))
            fractions, side = range_of(references), max(map(max, level_shapes))
            px = Range(fractions.low * side, fractions.high * side)
            self._see_places(references, "places of deformable sampling", px=px)

    def _runs(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """An operation runs; views, of which kernels that loop over boxes take many, compute nothing."""
        if getattr(func, "is_view", False):
            return func(*args, **kwargs)
        name = getattr(getattr(func, "overloadpacket", func), "__name__", "")
        inside = self._inside > 0
        mix = self._mix(name, args) if not inside and name.rstrip("_") in MIXES else None
        returned = func(*args, **kwargs)
        with _disable_current_modes():  # other watchers of the same run would take measuring for reading
            for result in filter(measurable, returned if isinstance(returned, tuple | list) else [returned]):
                if operation := fill_of(name, args, result):
                    self._note(operation)
                if not inside:
                    self._follow(name, args, result, mix=mix)
        return returned

    @staticmethod
    def _mix(name: str, args: tuple[Any, ...]) -> Mix | None:
        with _disable_current_modes():
            return mix_of(name, args)

    def _follow(self, name: str, args: tuple[Any, ...], result: Tensor, *, mix: Mix | None) -> None:
        operands = [value for value in arguments_of(args, {}) if measurable(value)]
        scalars = [value for value in args if isinstance(value, int | float)]
        self._origins.follow(name, operands=operands, scalars=scalars, result=result)
        if mix is not None:
            self._origins.note(result, replace(self._origins.of(result), mix=mix))
        form = self._origins.of(result).form
        if form == "logit x" and name.rstrip("_") in ("log", "sub", "logit", "special_logit"):
            self._note(Operation("inverse-sigmoid", "inverse sigmoid", result=range_of(result)))
        elif form != "x / (1 - x)" and (operation := division_of(name, args, result)):
            self._note(operation)
        if name.startswith("grid_sampler"):
            self._see_grid(args[1], side=max(args[0].shape[2:]))

    def _see_grid(self, grid: Tensor, *, side: int) -> None:
        """``grid_sample`` looks: -1 and 1 are the borders of the map."""
        ends = range_of(grid)
        px = Range((ends.low + 1) / 2 * side, (ends.high + 1) / 2 * side)
        self._see_places(grid, "places of grid_sample", px=px)

    def _note(self, operation: Operation) -> None:
        layer = self._running[-1] if self._running else ""
        self._operations.setdefault((operation.code, layer, line_of_code()), operation).widen(operation)


class _Operations(TorchDispatchMode):
    """Hands every operation of torch on."""

    def __init__(self, run: Callable[[Any, tuple[Any, ...], Mapping[str, Any]], Any]) -> None:
        super().__init__()
        self._run = run

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self._run(func, args, kwargs or {})
