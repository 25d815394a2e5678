"""Fake quantization with the gradients that LSQ, LSQ+ and PACT print, to step, offset and clipping level.

* LSQ (Esser et al., ICLR 2020, Eq. 3): ``dy/dS`` is ``round(v) - v`` with ``v = x / S`` where ``n < v < p``, else the
  limit ``n`` or ``p`` that clamps
* LSQ+ (Bhalgat et al., CVPR Workshops 2020): ``y = S round(clamp((x - beta) / S, n, p)) + beta``; the same with
  ``v = (x - beta) / S``, and ``dy/dbeta`` is 0 where ``n < v < p``, else 1
* both: times ``1 / sqrt(N p)`` for the ``N`` elements of a step, for the step and the offset alike
* PACT (Choi et al., 2018, arXiv 1805.06085): ``y`` is ``clip(x, 0, alpha)`` on its grid, ``dy/dalpha`` is 1 where
  ``x >= alpha``, else 0; on signed values ``sign(x)`` where ``|x| >= alpha``

``dy/dx`` is 1 where nothing is clipped, else 0. What is clipped is asked before rounding, as printed;
:mod:`qdbev.quantization.fake_quantize` asks after it, so that what rounds to the last integer still counts as inside.
The values are the same. Backward keeps nothing but the real values here too
(:mod:`qdbev.quantization.recomputation`).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from qdbev.quantization.integers import align_scale, clamped_steps, in_steps, integer_limits, shift
from qdbev.quantization.recomputation import close_saved, open_saved, remember


def fake_quantize_stepped(
    x: Tensor,
    *,
    scale: Tensor,
    bits: int,
    offset: Tensor | None = None,
    axis: int | None = None,
    narrow_range: bool = False,
    unsigned: bool = False,
) -> Tensor:
    """Return ``dequantize(quantize_int(x))`` in the type of ``x``, with the gradients of LSQ and LSQ+.

    Args:
        x: real values, any shape.
        scale: one step, or one per channel of ``axis``, positive float32.
        bits: width of the integers.
        offset: the value that integer 0 stands for, one element; None means 0.
        axis: the channel axis of a per-channel step.
        narrow_range: leave out the most negative integer.
        unsigned: take negative values for 0, before all else; not beside an offset.

    Raises:
        ValueError: ``unsigned`` beside an offset.

    >>> scale, offset = torch.tensor(2.0, requires_grad=True), torch.tensor(1.0, requires_grad=True)
    >>> y = fake_quantize_stepped(torch.tensor([5.9, 41.0]), scale=scale, offset=offset, bits=4)
    >>> y.sum().backward()
    >>> y.tolist(), round(scale.grad.item(), 4), round(offset.grad.item(), 4)  # (2 - 2.45 + 7) and 1, / sqrt(2 * 7)
    ([5.0, 15.0], 1.7506, 0.2673)
    """
    if unsigned and offset is not None:
        raise ValueError("an unsigned grid begins at zero and takes no offset, got one")
    low, high = integer_limits(bits, narrow_range=narrow_range)
    low = 0 if unsigned else low
    if torch.is_grad_enabled() and not _any_learns(x, scale, offset):
        again = partial(_onto_grid, scale=scale, offset=offset, axis=axis, low=low, high=high)
        return remember(again(x), x, remake=again)
    result: Tensor = _Stepped.apply(x, scale, offset, axis, low, high)
    return result


class _Stepped(torch.autograd.Function):
    """Keeps the real values, the step and the offset."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, offset: Tensor | None, axis: int | None, low: int, high: int
    ) -> Tensor:
        ctx.save_for_backward(x, scale, offset)
        ctx.axis, ctx.low, ctx.high, ctx.remake = axis, low, high, _remake_stepped
        return _onto_grid(x, scale=scale, offset=offset, axis=axis, low=low, high=high)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, offset = close_saved(ctx)
        (gradient,) = gradients
        with torch.no_grad():
            steps = in_steps(shift(x, offset=offset), scale=align_scale(scale, ndim=x.ndim, axis=ctx.axis))
        share = (x.numel() / scale.numel() * ctx.high) ** -0.5 if x.numel() else 0.0
        passed = _where_within(gradient, steps=steps, low=ctx.low, high=ctx.high)
        of_scale = of_offset = None
        if ctx.needs_input_grad[1]:
            slope = _slope(steps, low=ctx.low, high=ctx.high)
            others = [place for place in range(x.ndim) if place != ctx.axis] if ctx.axis is not None else None
            of_scale = (slope * gradient).sum(others).mul_(share)
        if ctx.needs_input_grad[2]:
            of_offset = (gradient - passed).sum(dtype=torch.float32).mul_(share)
        return passed, of_scale, of_offset, None, None, None


def _remake_stepped(ctx: Any) -> Tensor:
    x, scale, offset = open_saved(ctx)
    return _onto_grid(x, scale=scale, offset=offset, axis=ctx.axis, low=ctx.low, high=ctx.high)


@torch.no_grad()
def _slope(steps: Tensor, *, low: int, high: int) -> Tensor:
    """Return ``dy/dS``: the integer, less the steps where they lie within."""
    return steps.round().clamp_(low, high).sub_(_where_within(steps, steps=steps, low=low, high=high))


def _where_within(values: Tensor, *, steps: Tensor, low: int, high: int) -> Tensor:
    """Return values where ``low < steps < high``, else zero; on an unsigned grid zero steps lie within as well.

    The backward pass of a clamp does it, which is faster than a mask.
    """
    floor = -torch.finfo(steps.dtype).tiny if low == 0 else low
    result: Tensor = torch.ops.aten.hardtanh_backward(values.to(steps.dtype), steps, floor, high)
    return result.to(values.dtype)


def fake_quantize_clipped(
    x: Tensor,
    *,
    alpha: Tensor,
    steps_per_range: float,
    bits: int,
    narrow_range: bool = False,
    unsigned: bool = False,
) -> Tensor:
    """Return ``x`` on the grid whose step is ``alpha / steps_per_range``, with the gradients of PACT.

    Args:
        x: real values, any shape.
        alpha: the clipping level, one positive element, float32.
        steps_per_range: steps from 0 to ``alpha`` (:func:`qdbev.quantization.integers.steps_per_range`).
        bits: width of the signed integers.
        narrow_range: leave out the most negative integer.
        unsigned: take negative values for 0, before all else: the grid is ``[0, alpha]``.

    >>> alpha = torch.tensor(15.0, requires_grad=True)
    >>> x = torch.tensor([4.9, 40.0, -16.0, -40.0, 15.0], requires_grad=True)
    >>> y = fake_quantize_clipped(x, alpha=alpha, steps_per_range=7.5, bits=4)
    >>> (y * torch.tensor([1.0, 3.0, 1.0, 1.0, 1.0])).sum().backward()
    >>> y.tolist(), alpha.grad.item(), x.grad.tolist()  # 3 - 1 - 1 + 1
    ([4.0, 14.0, -16.0, -16.0, 14.0], 2.0, [1.0, 0.0, 0.0, 0.0, 0.0])
    """
    low, high = integer_limits(bits, narrow_range=narrow_range)
    low, scale = 0 if unsigned else low, alpha.detach() / steps_per_range
    if torch.is_grad_enabled() and not _any_learns(x, alpha):
        again = partial(_onto_grid, scale=scale, offset=None, axis=None, low=low, high=high)
        return remember(again(x), x, remake=again)
    result: Tensor = _Clipped.apply(x, alpha, scale, low, high)
    return result


class _Clipped(torch.autograd.Function):
    """Keeps the real values, the clipping level and the step."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, alpha: Tensor, scale: Tensor, low: int, high: int) -> Tensor:
        ctx.save_for_backward(x, alpha, scale)
        ctx.low, ctx.high, ctx.remake = low, high, _remake_clipped
        return _onto_grid(x, scale=scale, offset=None, axis=None, low=low, high=high)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, alpha, _ = close_saved(ctx)
        (gradient,) = gradients
        low = 0 if ctx.low == 0 else -1
        with torch.no_grad():
            levels = in_steps(x, scale=alpha.to(x.dtype))
        passed = _where_within(gradient, steps=levels, low=low, high=1)
        of_alpha = (gradient - passed).mul(levels.clamp(low, 1)).sum(dtype=torch.float32)
        return passed, of_alpha, None, None, None


def _remake_clipped(ctx: Any) -> Tensor:
    x, _, scale = open_saved(ctx)
    return _onto_grid(x, scale=scale, offset=None, axis=None, low=ctx.low, high=ctx.high)


def _onto_grid(x: Tensor, *, scale: Tensor, offset: Tensor | None, axis: int | None, low: int, high: int) -> Tensor:
    values = clamped_steps(shift(x, offset=offset), scale=scale, axis=axis, low=low, high=high, rescale=True)
    return (values if offset is None else values.add_(offset)).to(x.dtype)


def _any_learns(*tensors: Tensor | None) -> bool:
    return any(tensor is not None and tensor.requires_grad for tensor in tensors)
