"""Fake quantization: real values onto the grid of ``k`` bits and back, with straight-through gradients (Eq. 1).

The rounding is that of ``qdbev.quantization.grid.integers``. Backward passes the gradient where the integer needed
no clamp and stops it where it did, as ``torch.fake_quantize_per_tensor_affine`` does. A learned scale gets the gradient
of LSQ (Esser et al., ICLR 2020, Eq. 3) in the logarithm of the scale (as TQT, Jain et al., MLSys 2020): one step of
Adam is then the same share of every scale, and no scale turns negative.

Speed is memory here: the forward pass writes one new tensor and works in it, and backward keeps nothing but the real
values, which a float network keeps too; what else it needs is made from them again (see
``qdbev.quantization.grid.recomputation``). ``scripts/bench_training_step.py`` measures both.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor

from qdbev.ops import Bytes
from qdbev.quantization.grid.forms import Learned
from qdbev.quantization.grid.integers import (
    align_scale,
    as_bytes,
    clamped_steps,
    integer_limits,
    other_axes,
    round_steps,
)
from qdbev.quantization.grid.kernels import cpu_kernel_for, kernel_for
from qdbev.quantization.grid.recomputation import close_saved, open_saved, remember
from qdbev.quantization.grid.rectifier import note_rectified


class Rounding(NamedTuple):
    """The form of fake quantization (``qdbev.quantization.grid.forms``) that rounds at a scale.

    Attributes:
        scale: one scale, or one per channel of ``axis``, float32, without a gradient.
        axis: the channel axis of a per-channel scale.
        low: smallest integer.
        high: largest integer.
        log_scale: the parameter that a learned scale is the exponential of.
    """

    scale: Tensor
    axis: int | None
    low: int
    high: int
    log_scale: Tensor | None = None

    @classmethod
    def at_log_scale(cls, log_scale: Tensor, *, axis: int | None, low: int, high: int) -> Rounding:
        """A rounding whose scale is learned."""
        return cls(log_scale.detach().exp(), axis, low, high, log_scale)

    @property
    def learned(self) -> Learned:
        """The parameter of a learned scale, and no second one."""
        return self.log_scale, None

    @property
    def watched(self) -> tuple[Tensor | None, ...]:
        """The tensor that has to stay as it is until the backward pass."""
        return (self.scale if self.log_scale is None else self.log_scale,)

    @property
    def offset(self) -> None:
        """The value that integer 0 stands for is 0."""
        return None

    def with_learned(self, learned: Learned) -> Rounding:
        """The same with another tensor in place of the parameter."""
        return self._replace(log_scale=learned[0])

    def onto_grid(self, x: Tensor) -> Tensor:
        """Return ``S clamp(round(x / S))`` in the type of ``x``, without gradients."""
        values = clamped_steps(x, scale=self.scale, axis=self.axis, low=self.low, high=self.high, rescale=True)
        return values if values.dtype == x.dtype else values.to(x.dtype)

    def as_bytes(self, x: Tensor, *, signed: bool = False) -> Bytes | None:
        """Return the integers of ``onto_grid`` as the bytes that a CPU multiplies, where they can be had."""
        return as_bytes(x, scale=self.scale, low=self.low, high=self.high, axis=self.axis, signed=signed)

    def apply(self, x: Tensor) -> Tensor:
        """Return ``onto_grid`` with gradients to ``x`` and to a learned scale."""
        if not torch.is_grad_enabled():
            return self.onto_grid(x)
        if x.requires_grad or self.log_scale is not None:
            result: Tensor = _Rounded.apply(x, self.log_scale, self)
            return result
        return remember(self.onto_grid(x), x, self.scale, recompute=lambda values, _: self.onto_grid(values))

    def pass_back(self, grad_output: Tensor, x: Tensor, *, fresh: bool) -> tuple[Tensor, Learned]:
        """Return the gradient of ``x``, and the gradients of ``learned``.

        ``fresh`` lets it write into the gradient of the output.
        """
        kernel = kernel_for(x, axis=self.axis) if grad_output.dtype == x.dtype and not torch.is_grad_enabled() else None
        if kernel is None:
            return self._pass_back_by_torch(grad_output, x)
        grid: dict[str, Any] = {"scale": self.scale, "axis": self.axis, "low": self.low, "high": self.high}
        if self.log_scale is None:
            return kernel.grad_input(grad_output, x, **grid, in_place=fresh), (None, None)
        grad_input, total = kernel.grad_input_and_log_scale(grad_output, x, **grid, in_place=fresh)
        return grad_input, (total * self._share(x), None)

    def recompute_and_pass_back(
        self, grad_output: Tensor, x: Tensor, *, rectified: bool
    ) -> tuple[Tensor, Tensor, Learned]:
        """Return ``onto_grid`` and ``pass_back`` of a fresh gradient, on a CPU in one pass over memory.

        ``rectified``, where integers are unsigned, lets it do the backward pass of the ReLU that made ``x`` as well.
        """
        kernel = cpu_kernel_for(x, axis=self.axis) if grad_output.dtype == x.dtype else None
        if kernel is None:
            return self.onto_grid(x), *self.pass_back(grad_output, x, fresh=True)
        recomputed, grad_input, total = kernel.recomputed_and_grads(
            grad_output,
            x,
            scale=self.scale,
            axis=self.axis,
            low=self.low,
            high=self.high,
            learned=self.log_scale is not None,
            rectified=rectified,
            in_place=True,
        )
        if rectified:
            note_rectified(grad_input)
        return recomputed, grad_input, (None if total is None else total * self._share(x), None)

    def _pass_back_by_torch(self, grad_output: Tensor, x: Tensor) -> tuple[Tensor, Learned]:
        scale = self.scale if self.log_scale is None else self.log_scale.exp()  # this may be differentiated itself
        aligned = align_scale(scale, ndim=x.ndim, axis=self.axis)
        steps = round_steps(x, scale=aligned)
        grad_input = _grad_input(grad_output, steps=steps, x=x, low=self.low, high=self.high)
        if self.log_scale is None:
            return grad_input, (None, None)
        y = steps.clamp(self.low, self.high).mul_(aligned).to(x.dtype)
        # inside, S q - x; where clamped, S q: the gradient times y, less that of x times x
        terms = torch.mul(grad_output, y).addcmul_(grad_input, x, value=-1.0)
        summed_in = torch.promote_types(x.dtype, torch.float32)
        total: Tensor = terms.sum(other_axes(x.ndim, axis=self.axis), dtype=summed_in)
        return grad_input, (total.view(scale.shape) * self._share(x), None)

    def _share(self, x: Tensor) -> float:
        """LSQ's ``1 / sqrt(N q_max)``, with ``N`` elements to a scale."""
        share: float = (max(x.numel(), 1) / self.scale.numel() * self.high) ** -0.5
        return share


def fake_quantize(
    x: Tensor,
    *,
    scale: Tensor,
    bits: int,
    axis: int | None = None,
    narrow_range: bool = False,
    unsigned: bool = False,
) -> Tensor:
    """Return ``S clamp(round(x / S))`` in the type of ``x``.

    Equals ``dequantize(quantize_int(x))`` exactly. Half types are rounded in float32 and cast at the end.

    Args:
        x: Real values, any shape.
        scale: One scale, or one per channel of ``axis``, float32.
        bits: Width of the integers.
        axis: The channel axis of a per-channel scale.
        narrow_range: Leave out the most negative integer.
        unsigned: Leave out all negative integers; no gradient then passes to a negative value.

    >>> fake_quantize(torch.tensor([15.0, -15.0, 4.9, -1.1, 0.9]), scale=torch.tensor(2.0), bits=4).tolist()
    [14.0, -16.0, 4.0, -2.0, 0.0]
    """
    low, high = limits_of(bits, narrow_range=narrow_range, unsigned=unsigned)
    return Rounding(scale.detach(), axis, low, high).apply(x)


def fake_quantize_learned(
    x: Tensor,
    *,
    log_scale: Tensor,
    bits: int,
    axis: int | None = None,
    narrow_range: bool = False,
    unsigned: bool = False,
) -> Tensor:
    """Return ``fake_quantize(x)`` at the scale ``exp(log_scale)``, with gradients to both.

    Per element, ``S dy/dS`` is ``S q - x`` inside the clamp and ``S q`` where it acts; the sum over the ``N`` elements
    of a scale is multiplied by LSQ's ``1 / sqrt(N q_max)``.

    Args:
        x: Real values, any shape.
        log_scale: Natural logarithm of one scale, or of one per channel of ``axis``, float32.
        bits: Width of the integers.
        axis: The channel axis of a per-channel scale.
        narrow_range: Leave out the most negative integer.
        unsigned: Leave out all negative integers; negative values give and get no gradient then.

    >>> log_scale = torch.tensor(2.0).log().requires_grad_()
    >>> y = fake_quantize_learned(torch.tensor([4.9, 40.0]), log_scale=log_scale, bits=4)
    >>> y.sum().backward()
    >>> [round(value, 4) for value in (*y.tolist(), log_scale.grad.item())]  # (4 - 4.9 + 14) / sqrt(2 * 7)
    [4.0, 14.0, 3.5011]
    """
    low, high = limits_of(bits, narrow_range=narrow_range, unsigned=unsigned)
    return Rounding.at_log_scale(log_scale, axis=axis, low=low, high=high).apply(x)


@functools.cache
def limits_of(bits: int, *, narrow_range: bool, unsigned: bool) -> tuple[int, int]:
    """Smallest and largest integer; the smallest is 0 where they are unsigned, and below it where not."""
    low, high = integer_limits(bits, narrow_range=narrow_range)
    return 0 if unsigned else low, high


class _Rounded(torch.autograd.Function):
    """Forward onto the grid; backward is the identity inside the clamp and zero outside, and LSQ's to the scale."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, log_scale: Tensor | None, rounding: Rounding) -> Tensor:
        ctx.save_for_backward(x, *rounding.watched)
        ctx.rounding, ctx.recompute = rounding, _recompute
        return rounding.onto_grid(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (grad_output,) = gradients
        x, _ = close_saved(ctx)
        # A layer that had the output recomputed has just computed the gradient: nobody else holds it. A hook that keeps
        # the gradient of a quantizer's output keeps that of its input instead; it had better copy it.
        fresh = getattr(ctx, "was_recomputed", False)
        grad_input, (grad_log_scale, _) = ctx.rounding.pass_back(grad_output, x, fresh=fresh)
        return grad_input, grad_log_scale, None


def _recompute(ctx: Any) -> Tensor:
    x, _ = open_saved(ctx)
    ctx.was_recomputed = True
    recomputed: Tensor = ctx.rounding.onto_grid(x)
    return recomputed


def _grad_input(grad_output: Tensor, *, steps: Tensor, x: Tensor, low: int, high: int) -> Tensor:
    """The gradient where the integer needed no clamp, zero where it did.

    Done by the backward pass of a clamp of ``steps`` halfway between integers, which is faster than a mask.
    """
    result: Tensor = torch.ops.aten.hardtanh_backward(grad_output.to(steps.dtype), steps, low - 0.5, high + 0.5)
    if low == 0:  # a negative value is clamped also where it rounds to zero
        result = torch.ops.aten.threshold_backward(result, x.to(steps.dtype), -torch.finfo(steps.dtype).tiny)
    return result.to(grad_output.dtype)
