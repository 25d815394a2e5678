"""Fake quantization: real values onto the grid of ``k`` bits and back, with straight-through gradients (Eq. 1).

The rounding is that of :mod:`qdbev.quantization.integers`. Backward passes the gradient where the integer needed no
clamp and stops it where it did, as ``torch.fake_quantize_per_tensor_affine`` does. A learned scale gets the gradient of
LSQ (Esser et al., ICLR 2020, Eq. 3) in the logarithm of the scale (as TQT, Jain et al., MLSys 2020): one step of Adam
is then the same share of every scale, and no scale turns negative.

Speed is memory here: the forward pass writes one new tensor and works in it, and what backward keeps is one byte per
element. ``scripts/bench_fake_quantize.py`` measures it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from qdbev.quantization.integers import align_scale, integer_limits, round_steps


def fake_quantize(
    x: Tensor, *, scale: Tensor, bits: int, axis: int | None = None, narrow_range: bool = False
) -> Tensor:
    """Return ``S clamp(round(x / S))`` in the type of ``x``.

    Equals ``dequantize(quantize_int(x))`` exactly. Half types are rounded in float32 and cast at the end.

    Args:
        x: real values, any shape.
        scale: one scale, or one per channel of ``axis``, float32.
        bits: width of the integers.
        axis: the channel axis of a per-channel scale.
        narrow_range: leave out the most negative integer.

    >>> fake_quantize(torch.tensor([15.0, -15.0, 4.9, -1.1, 0.9]), scale=torch.tensor(2.0), bits=4).tolist()
    [14.0, -16.0, 4.0, -2.0, 0.0]
    """
    low, high = integer_limits(bits, narrow_range=narrow_range)
    aligned = align_scale(scale.detach(), ndim=x.ndim, axis=axis)
    if torch.is_grad_enabled() and x.requires_grad:
        result: Tensor = _StraightThrough.apply(x, aligned, low, high)
        return result
    return _to_grid(round_steps(x, scale=aligned), scale=aligned, low=low, high=high, dtype=x.dtype)


class _StraightThrough(torch.autograd.Function):
    """Forward onto the grid; backward is the identity inside the clamp and zero outside."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, low: int, high: int) -> Tensor:
        steps = round_steps(x, scale=scale)
        ctx.save_for_backward(_within(steps, low=low, high=high))
        return _to_grid(steps, scale=scale, low=low, high=high, dtype=x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (within,) = ctx.saved_tensors
        (gradient,) = gradients
        # A bool seen as uint8 converts several times faster than a bool, and far faster than torch.where on a CPU.
        return within.view(torch.uint8).to(gradient.dtype).mul_(gradient), None, None, None


def fake_quantize_learned(
    x: Tensor, *, log_scale: Tensor, bits: int, axis: int | None = None, narrow_range: bool = False
) -> Tensor:
    """Return ``fake_quantize(x)`` at the scale ``exp(log_scale)``, with gradients to both.

    Per element, ``S dy/dS`` is ``S q - x`` inside the clamp and ``S q`` where it acts; the sum over the ``N`` elements
    of a scale is multiplied by LSQ's ``1 / sqrt(N q_max)``.

    Args:
        x: real values, any shape.
        log_scale: natural logarithm of one scale, or of one per channel of ``axis``, float32.
        bits: width of the integers.
        axis: the channel axis of a per-channel scale.
        narrow_range: leave out the most negative integer.

    >>> log_scale = torch.tensor(2.0).log().requires_grad_()
    >>> y = fake_quantize_learned(torch.tensor([4.9, 40.0]), log_scale=log_scale, bits=4)
    >>> y.sum().backward()
    >>> [round(value, 4) for value in (*y.tolist(), log_scale.grad.item())]  # (4 - 4.9 + 14) / sqrt(2 * 7)
    [4.0, 14.0, 3.5011]
    """
    low, high = integer_limits(bits, narrow_range=narrow_range)
    result: Tensor = _LearnedStep.apply(x, log_scale, axis, low, high)
    return result


class _LearnedStep(torch.autograd.Function):
    """Straight through to the values, LSQ's gradient to the logarithm of the scale."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, log_scale: Tensor, axis: int | None, low: int, high: int) -> Tensor:
        scale = align_scale(log_scale.exp(), ndim=x.ndim, axis=axis)
        steps = round_steps(x, scale=scale)
        within = _within(steps, low=low, high=high)
        y = _to_grid(steps, scale=scale, low=low, high=high, dtype=x.dtype)
        ctx.save_for_backward(x, y, within)
        ctx.axis, ctx.high, ctx.scales = axis, high, log_scale.numel()
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, y, within = ctx.saved_tensors
        (gradient,) = gradients
        passed = within.view(torch.uint8).to(gradient.dtype).mul_(gradient)
        # inside, S q - x; where clamped, S q: the gradient times y, less what passes times x
        terms = torch.mul(gradient, y).addcmul_(passed, x, value=-1.0)
        others = [place for place in range(x.ndim) if place != ctx.axis]
        total = terms.sum(others if ctx.axis is not None else None, dtype=torch.float32)
        share = (x.numel() / ctx.scales * ctx.high) ** -0.5
        return passed, total.mul_(share), None, None, None


def _to_grid(steps: Tensor, *, scale: Tensor, low: int, high: int, dtype: torch.dtype) -> Tensor:
    """Clamp and multiply in place; ``steps`` is ours and is used up."""
    return steps.clamp_(low, high).mul_(scale).to(dtype)


def _within(steps: Tensor, *, low: int, high: int) -> Tensor:
    """Return a bool mask of ``low <= steps <= high``; may clamp ``steps`` to one beyond the limits.

    Comparisons of floats into bools are slow on a CPU (0.4 ns per element each), arithmetic on bytes is not: where
    ``low - 1 .. high + 1`` fits a byte the mask is made of bytes.
    """
    if steps.device.type != "cpu" or high + 1 > 127:
        return steps.ge(low).logical_and_(steps.le(high))
    byte = steps.clamp_(low - 1, high + 1).to(torch.int8)
    return byte.bitwise_xor_(byte.clamp(low, high)).bool().bitwise_not_()
