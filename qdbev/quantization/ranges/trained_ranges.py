"""Ranges that are parameters while they are trained.

======= ============== ================= ===================================================================
form    parameter      stands for        gradient
======= ============== ================= ===================================================================
log     ``log_scale``  logarithm of S    LSQ's times S (as TQT, Jain et al., MLSys 2020)
linear  ``step_size``  S                 LSQ's (Esser et al., ICLR 2020)
clip    ``pact_alpha`` r, a range        PACT's (Choi et al., 2018); its square is a term of the loss
======= ============== ================= ===================================================================

A quantizer with an offset trains that too, as ``lsq_beta`` (LSQ+, Bhalgat et al., CVPR Workshops 2020).
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from qdbev.quantization.grid.clipped_steps import Clipping
from qdbev.quantization.grid.fake_quantize import Rounding
from qdbev.quantization.grid.forms import FakeQuantization

RangeForm = Literal["log", "linear", "clip"]

RANGE_PARAMETERS = ("log_scale", "step_size", "pact_alpha", "lsq_beta")
"""Last words of the names of the parameters that stand for ranges."""

SMALLEST = torch.finfo(torch.float32).eps


class TrainedRange(nn.Module):
    """The range of one quantizer as a parameter.

    Args:
        offset: Where the quantizer has one, its present value.
    """

    lsq_beta: nn.Parameter | None

    def __init__(self, *, offset: Tensor | None = None) -> None:
        super().__init__()
        self.register_parameter("lsq_beta", None if offset is None else nn.Parameter(offset.clone()))

    @property
    def scale(self) -> Tensor:
        """The step that the parameter stands for, as the forward pass uses it; without a gradient."""
        raise NotImplementedError

    @property
    def offset(self) -> Tensor | None:
        """The trained offset, without a gradient; None without one."""
        return None if self.lsq_beta is None else self.lsq_beta.detach()

    def rounding(self, *, axis: int | None, low: int, high: int) -> FakeQuantization:
        """How a tensor is put onto the grid, with gradients to the parameters."""
        raise NotImplementedError

    def penalty(self) -> Tensor | None:
        """What the loss adds for this range, without its factor; None where nothing."""
        return None


class LogScale(TrainedRange):
    """The logarithm of the step."""

    def __init__(self, scale: Tensor, *, offset: Tensor | None = None) -> None:
        super().__init__(offset=offset)
        self.log_scale = nn.Parameter(scale.log())

    @property
    def scale(self) -> Tensor:
        """See ``TrainedRange``."""
        return self.log_scale.detach().exp()

    def rounding(self, *, axis: int | None, low: int, high: int) -> FakeQuantization:
        """See ``TrainedRange``; with an offset the gradient is LSQ+'s."""
        if self.lsq_beta is None:
            return Rounding.at_log_scale(self.log_scale, axis=axis, low=low, high=high)
        return Clipping.stepped(self.log_scale.exp(), self.lsq_beta, axis=axis, low=low, high=high)


class StepSize(TrainedRange):
    """The step itself, never below the smallest: descent may carry the parameter there, and back."""

    def __init__(self, scale: Tensor, *, offset: Tensor | None = None) -> None:
        super().__init__(offset=offset)
        self.step_size = nn.Parameter(scale.clone())

    @property
    def scale(self) -> Tensor:
        """See ``TrainedRange``."""
        return self.step_size.detach().clamp_min(SMALLEST)

    def rounding(self, *, axis: int | None, low: int, high: int) -> Clipping:
        """See ``TrainedRange``."""
        return Clipping.stepped(above_zero(self.step_size), self.lsq_beta, axis=axis, low=low, high=high)


class ClippingLevel(TrainedRange):
    """PACT's clipping level, one for a whole tensor.

    Args:
        r_max: Where it starts.
        steps_per_range: Steps from 0 to it.
    """

    def __init__(self, r_max: Tensor, *, steps_per_range: float) -> None:
        super().__init__()
        self.pact_alpha, self.steps_per_range = nn.Parameter(r_max.clone()), steps_per_range

    @property
    def scale(self) -> Tensor:
        """See ``TrainedRange``."""
        return self.pact_alpha.detach().clamp_min(SMALLEST) / self.steps_per_range

    def rounding(self, *, axis: int | None, low: int, high: int) -> Clipping:
        """See ``TrainedRange``; ``axis`` is None."""
        alpha = above_zero(self.pact_alpha)
        return Clipping.at_level(alpha, steps_per_range=self.steps_per_range, low=low, high=high)

    def penalty(self) -> Tensor:
        """The square of the clipping level."""
        return self.pact_alpha.square()


def trained_range(
    form: RangeForm, *, scale: Tensor, offset: Tensor | None, axis: int | None, steps_per_range: float
) -> TrainedRange:
    """Return a quantizer's range as a parameter that starts at the present one.

    Args:
        form: How it is trained.
        scale: The present step.
        offset: Where the quantizer has one, its present value.
        axis: The quantizer's channel axis.
        steps_per_range: Steps from 0 to the end of the range.

    Raises:
        ValueError: The form does not fit the quantizer.
    """
    if form == "log":
        return LogScale(scale, offset=offset)
    if form == "linear":
        return StepSize(scale, offset=offset)
    if axis is not None or offset is not None:
        raise ValueError("a clipping level is one per tensor, without an offset")
    return ClippingLevel(scale * steps_per_range, steps_per_range=steps_per_range)


def above_zero(parameter: Tensor) -> Tensor:
    """Return the parameter, at least the smallest step; the gradient passes as if nothing was done.

    >>> step = torch.tensor([0.5, -0.1], requires_grad=True)
    >>> values = above_zero(step)
    >>> values.sum().backward()
    >>> [round(value, 9) for value in values.tolist()], step.grad.tolist()
    ([0.5, 1.19e-07], [1.0, 1.0])
    """
    result: Tensor = _AboveZero.apply(parameter)
    return result


class _AboveZero(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, parameter: Tensor) -> Tensor:
        return parameter.clamp_min(SMALLEST)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]
