"""Block reconstruction: the rounding of all weights of a block is learned, and its input ranges with it.

BRECQ (Li et al., *BRECQ: Pushing the Limit of Post-Training Quantization by Block Reconstruction*, ICLR 2021, arXiv
2102.05426): unit by unit, in the order they run, ``|| f(x) - f_q(x_q) ||^2`` falls by gradient steps on the shares of
``qdbev.quantization.rounding.learned_rounding`` and on the input ranges of the unit's layers (LSQ). ``f(x)`` is what
the unit gives in the float network, ``x_q`` what it gets behind units that are quantized already. All numbers of an
output weigh the same: the paper's diagonal Fisher weights are left out.

QDrop (Wei et al., *QDrop: Randomly Dropping Quantization for Extremely Low-bit Post-Training Quantization*, ICLR 2022,
arXiv 2203.05740) does the same with noise that makes the result hold beyond the samples: in each step every number of
the unit's inputs is that of the float network, and every number that an input quantizer gives stays unquantized, with
probability ``drop``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qdbev.quantization.layers.keeping import NOWHERE, Keeper
from qdbev.quantization.layers.quantized import QuantizedLayer, QuantizedWeight
from qdbev.quantization.layers.quantizer import Quantizer
from qdbev.quantization.rounding.blocks import SHARED, layers_of, refuse_following, sharing, switch
from qdbev.quantization.rounding.kept_units import taken_up
from qdbev.quantization.rounding.learned_rounding import Descent, LearnedRounding
from qdbev.quantization.rounding.moments import power_of_two
from qdbev.quantization.rounding.units import Call, Unit, find_units, map_tensors, recorded, tensors_in


@dataclass(frozen=True)
class Reconstruction:
    """What was reconstructed.

    Attributes:
        errors: Unit -> mean squared error of its output, over the output's mean square: as calibrated, and now.
        unchanged: Paths of the units that stayed as calibrated, because what was learned was no better.
        refused: Path of a quantized weight that is in no unit -> why.
    """

    errors: dict[Unit, tuple[float, float]]
    unchanged: tuple[str, ...]
    refused: dict[str, str]


@torch.no_grad()
def reconstruct(
    model: nn.Module,
    reference: nn.Module,
    run: Callable[[nn.Module], object],
    parts: Iterable[str],
    *,
    iterations: int,
    learning_rate: float,
    drop: float = 0.0,
    seed: int = 0,
    keeper: Keeper = NOWHERE,
    on_unit: Callable[[int], object] | None = None,
) -> Reconstruction:
    """Put the weights of some parts on their grid, in place, and set the ranges of their inputs, unit by unit.

    The samples run once to find the units, then twice for each: in float and quantized. A unit whose output is no
    nearer afterwards, over all its calls, stays as calibrated.

    Args:
        model: A calibrated model in eval mode; its other parts run as they are switched, and afterwards these are off.
        reference: A copy of it, which gives what should come out: these parts run in float here.
        run: Runs the samples through the model it is given, the same each time.
        parts: Whose layers.
        iterations: Gradient steps for each unit, each on one call of it.
        learning_rate: Adam's, for the parameters behind the shares; input ranges have a tenth of it.
        drop: Probability with which a number is left unquantized: 0 for BRECQ, QDrop has 0.5.
        seed: Of the order of calls and of what is dropped.
        keeper: Is given what is done after each unit; what it kept of a call that was stopped is not done again.
        on_unit: Told how many units there are, as each is done.

    Returns:
        What it did to every unit. Embedding tables stay as they were.

    Raises:
        ValueError: Weight ranges that follow the weights, which would move under the rounded ones.
    """
    parts = tuple(parts)
    layers = layers_of(model, parts)
    refuse_following(layers)
    switch(layers_of(reference, parts), on=False)
    units, refused = _units(reference, layers, run=partial(run, reference))
    generator, descent = torch.Generator().manual_seed(seed), Descent(iterations, learning_rate)
    work = taken_up(keeper.kept(), units=units, layers=layers, generator=generator)
    shared, tell = sharing(layers), on_unit or (lambda total: None)
    for index, unit in enumerate(units):
        inside = {path: layers[path] for path in unit.layers}
        if index < work.done:
            switch(inside, on=True)
            tell(len(units))
            continue
        target = recorded(reference, unit.path, run=partial(run, reference))
        given = recorded(model, unit.path, run=partial(run, model))
        switch(inside, on=True)
        if reason := SHARED if shared.intersection(unit.layers) else _unlike(given, target):
            work.refused[unit] = reason
        else:
            learner = _Learner(model.get_submodule(unit.path), list(inside.values()), given, target, drop, generator)
            work.errors[unit] = learner.learn(descent)
        keeper.keep(work.tensors(units=units, layers=layers, generator=generator))
        tell(len(units))
    switch(layers, on=False)
    for unit, reason in work.refused.items():
        refused |= _weights_of({path: layers[path] for path in unit.layers}, reason=reason)
    unchanged = tuple(unit.path for unit, (before, after) in work.errors.items() if not after < before)
    return Reconstruction(errors=work.errors, unchanged=unchanged, refused=refused)


def _units(
    reference: nn.Module, layers: Mapping[str, QuantizedLayer], *, run: Callable[[], object]
) -> tuple[list[Unit], dict[str, str]]:
    """The units, and path of a weight that is in none -> why; what is in none runs quantized from now on."""
    tables = {path: layer for path, layer in layers.items() if layer.site.kind == "embedding"}
    units = find_units(reference, [path for path in layers if path not in tables], run=run)
    inside = {path for unit in units for path in unit.layers}
    outside = {path: layer for path, layer in layers.items() if path not in inside}
    idle = {path: layer for path, layer in outside.items() if path not in tables}
    refused = _weights_of(idle, reason="it did not run")
    refused |= _weights_of(tables, reason="a table has no input to reconstruct from")
    switch(layers, on=False)
    switch(outside, on=True)
    return units, refused


@dataclass(frozen=True)
class _Learner:
    """A unit, its layers, and its calls: as it gets them behind quantized units, and as in float."""

    module: nn.Module
    layers: Sequence[QuantizedLayer]
    given: Sequence[Call]
    target: Sequence[Call]
    drop: float
    generator: torch.Generator

    def learn(self, descent: Descent) -> tuple[float, float]:
        """Learn, and leave the unit as calibrated if it is no better for it; the error before and after."""
        weights = [weight for layer in self.layers for weight in layer.quantized_weights()]
        inputs = [quantizer for layer in self.layers for quantizer in layer.input_quantizers()]
        roundings = [
            LearnedRounding(weight.rows, scale=weight.quantizer.scale, quantizer=weight.quantizer) for weight in weights
        ]
        calibrated = [*(weight.value for weight in weights), *(b for quantizer in inputs for b in quantizer.buffers())]
        copies = [tensor.clone() for tensor in calibrated]
        before = self.error()
        self._descend(weights, inputs, roundings, descent=descent, before=before)
        for weight, rounding in zip(weights, roundings, strict=True):
            weight.write(rounding.rounded())
        after = self.error()
        if after < before:
            return before, after
        for tensor, copy in zip(calibrated, copies, strict=True):
            tensor.copy_(copy)
        return before, before

    @torch.no_grad()
    def error(self) -> float:
        """Mean over the calls of the error of the unit as it is."""
        errors = [self._error_of(place, call.args, call.kwargs) for place, call in enumerate(self.given)]
        return float(torch.stack(errors).mean())

    def _descend(
        self,
        weights: Sequence[QuantizedWeight],
        inputs: Sequence[Quantizer],
        roundings: Sequence[LearnedRounding],
        *,
        descent: Descent,
        before: float,
    ) -> None:
        """The gradient steps; what was learned of the input ranges is in the quantizers afterwards."""
        factor = max(1, sum(weight.value.numel() for weight in weights)) / max(before, 1e-12)
        for quantizer in inputs:
            quantizer.learn()
        trained = [quantizer.trained for quantizer in inputs if quantizer.trained is not None]
        ranges = [parameter for form in trained for parameter in form.parameters()]
        with ExitStack() as stack:
            stack.enter_context(_frozen(self.module, but=ranges))
            for weight, rounding in zip(weights, roundings, strict=True):
                stack.callback(weight.quantizer.register_forward_hook(partial(_learned, rounding)).remove)
            for quantizer in inputs if self.drop else ():
                stack.callback(quantizer.register_forward_hook(self._dropping).remove)
            descent.run(roundings, loss=lambda: self._random_call() * factor, ranges=ranges)
        for quantizer in inputs:
            quantizer.settle()

    def _random_call(self) -> Tensor:
        """The error of one call, its inputs mixed with those in float."""
        place = int(torch.randint(len(self.given), (), generator=self.generator))
        args, kwargs = self.given[place].args, self.given[place].kwargs
        if self.drop:
            others = tensors_in((self.target[place].args, self.target[place].kwargs))
            args, kwargs = map_tensors((args, kwargs), lambda x: self._mixed(x, next(others)))
        return self._error_of(place, args, kwargs)

    def _dropping(self, quantizer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """A hook that has an input quantizer leave numbers as they are, at random."""
        return self._mixed(output, args[0])

    def _mixed(self, x: Tensor, other: Tensor) -> Tensor:
        """``x``, each number replaced by that of ``other`` with the probability ``drop``; only real numbers are."""
        if not x.is_floating_point():
            return x
        chosen = torch.rand(x.shape, generator=self.generator) < self.drop
        return torch.where(chosen.to(x.device), other, x)

    def _error_of(self, place: int, args: Any, kwargs: Any) -> Tensor:
        """Mean squared error of a call's outputs over their mean square, each output counted alike."""
        device = next(self.module.parameters()).device
        args, kwargs = map_tensors((args, kwargs), lambda x: x.to(device, copy=True))
        outputs = tensors_in(self.module(*args, **kwargs))
        errors = [
            _relative_error(y, target.to(device))
            for y, target in zip(outputs, tensors_in(self.target[place].output), strict=True)
            if y.is_floating_point()
        ]
        return torch.stack(errors).mean()


def _relative_error(y: Tensor, target: Tensor) -> Tensor:
    """Mean squared error over the target's mean square, in a unit of its size: float32 holds the squares."""
    if not target.numel():
        return y.sum()
    unit = power_of_two(target.abs().amax())
    y, target = y / unit, target / unit
    return F.mse_loss(y, target) / target.square().mean().clamp(min=1e-12)


def _learned(rounding: LearnedRounding, quantizer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """A hook that has the quantizer of a weight return the weight as it is learned."""
    return rounding()


@contextmanager
def _frozen(module: nn.Module, *, but: Collection[Tensor]) -> Iterator[None]:
    """Give no parameter of a module gradients, but for some; restored afterwards."""
    exempt = {id(tensor) for tensor in but}
    frozen = [parameter for parameter in module.parameters() if parameter.requires_grad and id(parameter) not in exempt]
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)


def _weights_of(layers: Mapping[str, QuantizedLayer], *, reason: str) -> dict[str, str]:
    """Path of each quantized weight of layers -> the reason."""
    return {f"{path}.{weight.name}": reason for path, layer in layers.items() for weight in layer.quantized_weights()}


def _unlike(given: Sequence[Call], target: Sequence[Call]) -> str:
    """Return why calls cannot be compared, or nothing."""
    if not given or len(given) != len(target):
        return f"its block ran {len(given)} times quantized and {len(target)} times in float"
    for call, other in zip(given, target, strict=True):
        if [x.shape for x in tensors_in(call)] != [x.shape for x in tensors_in(other)]:
            return "its block runs on other shapes in float"
    return ""
