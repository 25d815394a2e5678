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
The values are the same.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from qdbev.quantization.integers import align_scale, in_steps, integer_limits, round_steps, shift


def fake_quantize_stepped(
    x: Tensor,
    *,
    scale: Tensor,
    bits: int,
    offset: Tensor | None = None,
    axis: int | None = None,
    narrow_range: bool = False,
) -> Tensor:
    """Return ``dequantize(quantize_int(x))`` in the type of ``x``, with the gradients of LSQ and LSQ+.

    Args:
        x: real values, any shape.
        scale: one step, or one per channel of ``axis``, positive float32.
        bits: width of the integers.
        offset: the value that integer 0 stands for, one element; None means 0.
        axis: the channel axis of a per-channel step.
        narrow_range: leave out the most negative integer.

    >>> scale, offset = torch.tensor(2.0, requires_grad=True), torch.tensor(1.0, requires_grad=True)
    >>> y = fake_quantize_stepped(torch.tensor([5.9, 41.0]), scale=scale, offset=offset, bits=4)
    >>> y.sum().backward()
    >>> y.tolist(), round(scale.grad.item(), 4), round(offset.grad.item(), 4)  # (2 - 2.45 + 7) and 1, / sqrt(2 * 7)
    ([5.0, 15.0], 1.7506, 0.2673)
    """
    low, high = integer_limits(bits, narrow_range=narrow_range)
    result: Tensor = _Stepped.apply(x, scale, offset, axis, low, high)
    return result


class _Stepped(torch.autograd.Function):
    """Keeps, per element, one byte, and ``dy/dS`` where the step is trained."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, offset: Tensor | None, axis: int | None, low: int, high: int
    ) -> Tensor:
        aligned = align_scale(scale, ndim=x.ndim, axis=axis)
        steps = in_steps(shift(x, offset=offset), scale=aligned)
        within = steps.gt(low).logical_and_(steps.lt(high))
        integers = steps.round().clamp_(low, high)
        slope = integers - steps * within if ctx.needs_input_grad[1] else None
        ctx.save_for_backward(within, slope)
        ctx.axis, ctx.share = axis, (x.numel() / scale.numel() * high) ** -0.5 if x.numel() else 0.0
        values = integers.mul_(aligned)
        return (values if offset is None else values.add_(offset)).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        within, slope = ctx.saved_tensors
        (gradient,) = gradients
        passed = within.view(torch.uint8).to(gradient.dtype).mul_(gradient)
        of_scale = of_offset = None
        if slope is not None:
            others = [place for place in range(slope.ndim) if place != ctx.axis] if ctx.axis is not None else None
            of_scale = (slope * gradient).sum(others).mul_(ctx.share)
        if ctx.needs_input_grad[2]:
            of_offset = (gradient - passed).sum(dtype=torch.float32).mul_(ctx.share)
        return passed, of_scale, of_offset, None, None, None


def fake_quantize_clipped(
    x: Tensor, *, alpha: Tensor, steps_per_range: float, bits: int, narrow_range: bool = False
) -> Tensor:
    """Return ``x`` on the grid whose step is ``alpha / steps_per_range``, with the gradients of PACT.

    Args:
        x: real values, any shape; not negative where the grid is to be ``[0, alpha]``.
        alpha: the clipping level, one positive element, float32.
        steps_per_range: steps from 0 to ``alpha`` (:func:`qdbev.quantization.integers.steps_per_range`).
        bits: width of the signed integers.
        narrow_range: leave out the most negative integer.

    >>> alpha = torch.tensor(15.0, requires_grad=True)
    >>> x = torch.tensor([4.9, 40.0, -16.0, -40.0, 15.0], requires_grad=True)
    >>> y = fake_quantize_clipped(x, alpha=alpha, steps_per_range=7.5, bits=4)
    >>> (y * torch.tensor([1.0, 3.0, 1.0, 1.0, 1.0])).sum().backward()
    >>> y.tolist(), alpha.grad.item(), x.grad.tolist()  # 3 - 1 - 1 + 1
    ([4.0, 14.0, -16.0, -16.0, 14.0], 2.0, [1.0, 0.0, 0.0, 0.0, 0.0])
    """
    low, high = integer_limits(bits, narrow_range=narrow_range)
    result: Tensor = _Clipped.apply(x, alpha, alpha.detach() / steps_per_range, low, high)
    return result


class _Clipped(torch.autograd.Function):
    """Keeps one byte per element: 1 and -1 where it was clipped, 0 where not."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, alpha: Tensor, scale: Tensor, low: int, high: int) -> Tensor:
        ctx.save_for_backward(x.ge(alpha).to(torch.int8) - x.le(-alpha).to(torch.int8))
        return round_steps(x, scale=scale).clamp_(low, high).mul_(scale).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (side,) = ctx.saved_tensors
        (gradient,) = gradients
        return gradient * side.eq(0), (gradient * side).sum(dtype=torch.float32), None, None, None
