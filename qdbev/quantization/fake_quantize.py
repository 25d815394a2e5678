"""Fake quantization: real values onto the grid of ``k`` bits and back, with straight-through gradients (Eq. 1).

The rounding is that of :mod:`qdbev.quantization.integers`. Backward passes the gradient where the integer needed no
clamp and stops it where it did, as ``torch.fake_quantize_per_tensor_affine`` does. A learned scale gets the gradient of
LSQ (Esser et al., ICLR 2020, Eq. 3) in the logarithm of the scale (as TQT, Jain et al., MLSys 2020): one step of Adam
is then the same share of every scale, and no scale turns negative.

Speed is memory here: the forward pass writes one new tensor and works in it, and backward keeps nothing but the real
values, which a float network keeps too; what else it needs is made from them again (see
:mod:`qdbev.quantization.recomputation`). ``scripts/bench_training_step.py`` measures both.
"""

from __future__ import annotations

import functools
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from qdbev.quantization.integers import align_scale, clamped_steps, integer_limits, kernel_for, round_steps
from qdbev.quantization.recomputation import close_saved, open_saved, remember


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
        x: real values, any shape.
        scale: one scale, or one per channel of ``axis``, float32.
        bits: width of the integers.
        axis: the channel axis of a per-channel scale.
        narrow_range: leave out the most negative integer.
        unsigned: leave out all negative integers; no gradient then passes to a negative value.

    >>> fake_quantize(torch.tensor([15.0, -15.0, 4.9, -1.1, 0.9]), scale=torch.tensor(2.0), bits=4).tolist()
    [14.0, -16.0, 4.0, -2.0, 0.0]
    """
    low, high = _limits(bits, narrow_range=narrow_range, unsigned=unsigned)
    if not torch.is_grad_enabled():
        return _onto_grid(x, scale=scale, axis=axis, low=low, high=high)
    fixed = scale.detach()
    if x.requires_grad:
        result: Tensor = _StraightThrough.apply(x, fixed, axis, low, high)
        return result
    again = partial(_onto_grid, scale=fixed, axis=axis, low=low, high=high)
    return remember(again(x), source=x, remake=again)


class _StraightThrough(torch.autograd.Function):
    """Forward onto the grid; backward is the identity inside the clamp and zero outside."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, axis: int | None, low: int, high: int) -> Tensor:
        ctx.save_for_backward(x, scale)
        _prepare(ctx, x, axis=axis, low=low, high=high)
        return _onto_grid(x, scale=scale, axis=axis, low=low, high=high)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        passed, _ = _backward(ctx, *gradients, slope=False)
        return passed, None, None, None, None


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
        x: real values, any shape.
        log_scale: natural logarithm of one scale, or of one per channel of ``axis``, float32.
        bits: width of the integers.
        axis: the channel axis of a per-channel scale.
        narrow_range: leave out the most negative integer.
        unsigned: leave out all negative integers; negative values give and get no gradient then.

    >>> log_scale = torch.tensor(2.0).log().requires_grad_()
    >>> y = fake_quantize_learned(torch.tensor([4.9, 40.0]), log_scale=log_scale, bits=4)
    >>> y.sum().backward()
    >>> [round(value, 4) for value in (*y.tolist(), log_scale.grad.item())]  # (4 - 4.9 + 14) / sqrt(2 * 7)
    [4.0, 14.0, 3.5011]
    """
    low, high = _limits(bits, narrow_range=narrow_range, unsigned=unsigned)
    result: Tensor = _LearnedStep.apply(x, log_scale, axis, low, high)
    return result


class _LearnedStep(torch.autograd.Function):
    """Straight through to the values, LSQ's gradient to the logarithm of the scale."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, log_scale: Tensor, axis: int | None, low: int, high: int) -> Tensor:
        scale = log_scale.exp()
        ctx.save_for_backward(x, scale)
        _prepare(ctx, x, axis=axis, low=low, high=high)
        return _onto_grid(x, scale=scale, axis=axis, low=low, high=high)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        passed, total = _backward(ctx, *gradients, slope=True)
        assert total is not None
        share = (max(passed.numel(), 1) / total.numel() * ctx.high) ** -0.5
        return passed, total * share, None, None, None


class _Passed(NamedTuple):
    """What has passed already, and the sum per scale that goes with it."""

    gradient: Tensor
    version: int
    total: Tensor


@functools.cache
def _limits(bits: int, *, narrow_range: bool, unsigned: bool) -> tuple[int, int]:
    """Smallest and largest integer; the smallest is 0 where they are unsigned, and below it where not."""
    low, high = integer_limits(bits, narrow_range=narrow_range)
    return 0 if unsigned else low, high


def _onto_grid(x: Tensor, *, scale: Tensor, axis: int | None, low: int, high: int) -> Tensor:
    return clamped_steps(x, scale=scale, axis=axis, low=low, high=high, rescale=True).to(x.dtype)


def _prepare(ctx: Any, x: Tensor, *, axis: int | None, low: int, high: int) -> None:
    """Note what the backward pass needs beside saved tensors, and what :mod:`qdbev.quantization.recomputation` does."""
    ctx.axis, ctx.low, ctx.high, ctx.passed, ctx.remake = axis, low, high, None, _remake
    if hasattr(kernel_for(x, axis=axis), "again_and_passed"):
        ctx.remake_and_pass = _remake_and_pass


def _remake(ctx: Any) -> Tensor:
    x, scale = open_saved(ctx)
    ctx.remade = True
    return _onto_grid(x, scale=scale, axis=ctx.axis, low=ctx.low, high=ctx.high)


def _remake_and_pass(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
    x, scale = open_saved(ctx)
    kernel = kernel_for(x, axis=ctx.axis)
    assert kernel is not None
    again, passed, total = kernel.again_and_passed(
        gradient, x, scale=scale, axis=ctx.axis, low=ctx.low, high=ctx.high, in_place=True
    )
    ctx.passed = _Passed(passed, passed._version, total)
    return again, passed


def _backward(ctx: Any, gradient: Tensor, *, slope: bool) -> tuple[Tensor, Tensor | None]:
    """What passes to the values and, if wanted, per scale the sum that its gradient is a share of.

    Of what has passed already only the rest is done: nothing, unless the output had another reader too.
    """
    x, scale = close_saved(ctx)
    before, ctx.passed = ctx.passed, None
    if before is None:
        return _through(ctx, gradient, x=x, scale=scale, slope=slope)
    if gradient is before.gradient and gradient._version == before.version:
        return gradient, before.total
    passed, total = _through(ctx, gradient - before.gradient, x=x, scale=scale, slope=slope)
    return passed + before.gradient, None if total is None else total + before.total


def _through(ctx: Any, gradient: Tensor, *, x: Tensor, scale: Tensor, slope: bool) -> tuple[Tensor, Tensor | None]:
    kernel = kernel_for(x, axis=ctx.axis) if gradient.dtype == x.dtype and not torch.is_grad_enabled() else None
    if kernel is not None:
        run = kernel.passed_and_slope if slope else kernel.passed
        made = run(gradient, x, scale=scale, axis=ctx.axis, low=ctx.low, high=ctx.high, in_place=_is_fresh(ctx))
        return made if slope else (made, None)
    aligned = align_scale(scale, ndim=x.ndim, axis=ctx.axis)
    steps = round_steps(x, scale=aligned)
    passed = _passed(gradient, steps=steps, x=x, low=ctx.low, high=ctx.high)
    if not slope:
        return passed, None
    y = steps.clamp(ctx.low, ctx.high).mul_(aligned).to(x.dtype)
    # inside, S q - x; where clamped, S q: the gradient times y, less what passes times x
    terms = torch.mul(gradient, y).addcmul_(passed, x, value=-1.0)
    others = [place for place in range(x.ndim) if place != ctx.axis]
    total: Tensor = terms.sum(others if ctx.axis is not None else None, dtype=torch.float32)
    return passed, total.view(scale.shape)


def _is_fresh(ctx: Any) -> bool:
    """Whether nobody else holds the gradient: the layer that had the output made again has just computed it.

    A hook that keeps the gradient of a quantizer's output keeps what passed instead; it had better copy it.
    """
    return getattr(ctx, "remade", False)


def _passed(gradient: Tensor, *, steps: Tensor, x: Tensor, low: int, high: int) -> Tensor:
    """The gradient where the integer needed no clamp, zero where it did.

    Done by the backward pass of a clamp of ``steps`` halfway between integers, which is faster than a mask.
    """
    passed: Tensor = torch.ops.aten.hardtanh_backward(gradient.to(steps.dtype), steps, low - 0.5, high + 0.5)
    if low == 0:  # a negative value is clamped also where it rounds to zero
        passed = torch.ops.aten.threshold_backward(passed, x.to(steps.dtype), -torch.finfo(steps.dtype).tiny)
    return passed.to(gradient.dtype)
