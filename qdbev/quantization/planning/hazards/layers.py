"""Rules on layers: what their inputs and outputs were in the run, and what is bad about that at so many bits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from qdbev.quantization.planning.hazards.hazard import FRACTION_STEP, NARROW, PLACE_STEP_PX, Hazard
from qdbev.quantization.planning.hazards.origins import Mix
from qdbev.quantization.planning.hazards.spreads import Range, range_of


@dataclass
class Places:
    """Coordinates that a layer gives: where something is sampled."""

    of_weights: ClassVar[bool] = False
    layer: str
    what: str
    px: Range = field(default_factory=Range)

    def hazard(self, bits: int) -> Hazard | None:
        """Return what is bad where its output has so many bits, or None."""
        step = self.px.width / (2**bits - 1)
        if not step >= PLACE_STEP_PX:
            return None
        what = f"gives {self.what}: {step:.2g} px a step of {bits} bits"
        return Hazard("coordinates", self.layer, what, self.px.low, self.px.high)


@dataclass
class Logits:
    """An input that is an inverse sigmoid of fractions."""

    of_weights: ClassVar[bool] = False
    layer: str
    input: Range = field(default_factory=Range)

    def hazard(self, bits: int) -> Hazard | None:
        """Return what is bad where the input has so many bits, or None."""
        moved = self.input.step(bits) / 4  # the steepest slope of the sigmoid
        if not moved >= FRACTION_STEP:
            return None
        what = f"reads an inverse sigmoid: a step of {bits} bits moves a fraction by {moved:.2g}"
        return Hazard("coordinates", self.layer, what, self.input.low, self.input.high)


@dataclass
class Numbers:
    """An input from outside the model, no layer or parameter before: coordinates, angles, speeds, matrices."""

    of_weights: ClassVar[bool] = False
    layer: str
    input: Range = field(default_factory=Range)
    channels: Tensor = field(default_factory=lambda: torch.zeros(()))
    """Largest magnitude of each channel."""

    def hazard(self, bits: int) -> Hazard | None:
        """Return what is bad where the input has so many bits, or None."""
        step = self.input.step(bits)
        lost = int(((self.channels > 0) & (self.channels < step / 2)).sum())
        if not lost:
            return None
        what = f"reads raw numbers: {lost} of {self.channels.numel()} round to 0 in {bits} bits"
        return Hazard("coordinates", self.layer, what, self.input.low, self.input.high)


@dataclass
class Shared:
    """An input that is a sum or a concatenation of unlike ranges."""

    of_weights: ClassVar[bool] = False
    layer: str
    mix: Mix
    input: Range = field(default_factory=Range)

    def hazard(self, bits: int) -> Hazard | None:
        """Return what is bad about it, whatever the bits."""
        smallest, largest = self.mix.smallest, self.mix.largest
        what = f"reads a {self.mix.operation} of up to {smallest:.3g} and {largest:.3g} in one range"
        return Hazard("shared-range", self.layer, what, self.input.low, self.input.high)


@dataclass
class Narrow:
    """A projection of few numbers, or to few."""

    of_weights: ClassVar[bool] = True
    layer: str
    sides: tuple[int, int]
    weights: Range

    def hazard(self, bits: int) -> Hazard | None:
        """Return what is bad about it, whatever the bits."""
        what = f"projects {self.sides[0]} to {self.sides[1]} numbers"
        return Hazard("narrow", self.layer, what, self.weights.low, self.weights.high)


Finding = Places | Logits | Numbers | Shared | Narrow


def narrow(module: nn.Module, *, layer: str) -> Narrow | None:
    """Return a projection with a side narrower than 16: a linear layer, an attention or a 1x1 convolution."""
    weight = next((value for name, value in module.named_parameters(recurse=False) if name.endswith("weight")), None)
    projects = isinstance(module, nn.Linear | nn.MultiheadAttention) or is_pointwise(module)
    if weight is None or not projects or min(weight.shape[:2]) >= NARROW:
        return None
    return Narrow(layer, (weight.shape[1], weight.shape[0]), range_of(weight))


def is_pointwise(module: nn.Module) -> bool:
    """Whether a module is a convolution that is a product of matrices."""
    return isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and module.groups == 1


def channel_magnitudes(x: Tensor, module: nn.Module) -> Tensor:
    """Return the largest magnitude of each input channel of a linear layer or a convolution."""
    axis = x.dim() - (3 if isinstance(module, nn.Conv2d) else 1)
    return x.detach().abs().movedim(axis, 0).reshape(x.shape[axis], -1).amax(1).float()
