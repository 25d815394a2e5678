"""Frustum pooling on a GPU, forward and backward, compiled by Triton, without atomic sums: all runs give equal bits.

Forward: points are sorted by cell, and a program sums those of one cell. Backward: a program does one pixel, whose
depths lie beside each other in no one else's way.
Same numbers as ``direct_form`` in ``frustum_pooling.py`` up to the order of summation.
Shapes: E images, D depths, P pixels, C channels, G cells.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

_POINTS = 32  # points that a program holds at a time, each with all channels


@triton.jit
def _forward(  # type: ignore[no-untyped-def]
    depth,
    context,
    order,
    starts,
    out,
    depths,
    pixels,
    CHANNELS: tl.constexpr,
    PADDED: tl.constexpr,
    POINTS: tl.constexpr,
):
    cell = tl.program_id(0)
    start, stop = tl.load(starts + cell), tl.load(starts + cell + 1)
    channel = tl.arange(0, PADDED)
    filled = channel < CHANNELS
    total = tl.zeros((PADDED,), dtype=out.dtype.element_ty)
    for first in range(start, stop, POINTS):
        place = first + tl.arange(0, POINTS)
        there = place < stop
        point = tl.load(order + place, mask=there, other=0)
        weight = tl.load(depth + point, mask=there, other=0)
        pixel = point // (depths * pixels) * pixels + point % pixels
        at = pixel[:, None] * CHANNELS + channel[None, :]
        value = tl.load(context + at, mask=there[:, None] & filled[None, :], other=0)
        total += tl.sum(weight[:, None] * value, axis=0)
    tl.store(out + cell * CHANNELS + channel, total, mask=filled)


@triton.jit
def _backward(  # type: ignore[no-untyped-def]
    grad_out,
    depth,
    context,
    cells,
    grad_depth,
    grad_context,
    depths,
    pixels,
    CHANNELS: tl.constexpr,
    PADDED: tl.constexpr,
    POINTS: tl.constexpr,
):
    pixel = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, PADDED)
    filled = channel < CHANNELS
    value = tl.load(context + pixel * CHANNELS + channel, mask=filled, other=0)
    total = tl.zeros((PADDED,), dtype=context.dtype.element_ty)
    base = pixel // pixels * depths * pixels + pixel % pixels
    for first in range(0, depths, POINTS):
        place = first + tl.arange(0, POINTS)
        there = place < depths
        point = base + place * pixels
        cell = tl.load(cells + point, mask=there, other=-1).to(tl.int64)
        weight = tl.load(depth + point, mask=there, other=0)
        inside = cell >= 0
        at = tl.where(inside, cell, 0)[:, None] * CHANNELS + channel[None, :]
        gradient = tl.load(grad_out + at, mask=inside[:, None] & filled[None, :], other=0)
        tl.store(grad_depth + point, tl.sum(gradient * value[None, :], axis=1), mask=there)
        total += tl.sum(gradient * weight[:, None], axis=0)
    tl.store(grad_context + pixel * CHANNELS + channel, total, mask=filled)


class FrustumPoolingTriton(torch.autograd.Function):
    """The kernels as one differentiable operation; both floating tensors are of one type."""

    @staticmethod
    def forward(ctx: Any, depth_EDP: Tensor, context_EPC: Tensor, cells_EDP: Tensor, cells: int) -> Tensor:
        """(G, C)."""
        depth, context, places = (tensor.contiguous() for tensor in (depth_EDP, context_EPC, cells_EDP))
        ctx.save_for_backward(depth, context, places)
        out = context.new_empty(cells, context.shape[-1])
        rising, order = places.flatten().sort(stable=True)
        starts = torch.searchsorted(rising, torch.arange(cells + 1, device=rising.device, dtype=rising.dtype))
        _forward[(cells,)](depth, context, order, starts, out, *depth.shape[1:], **_constants(context))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out_GC: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of depth and context."""
        depth, context, places = ctx.saved_tensors
        grads = torch.empty_like(depth), torch.empty_like(context)
        pixels = context.shape[0] * context.shape[1]
        _backward[(pixels,)](
            grad_out_GC.contiguous(), depth, context, places, *grads, *depth.shape[1:], **_constants(context)
        )
        return *grads, None, None


def _constants(context_EPC: Tensor) -> dict[str, int]:
    channels = context_EPC.shape[-1]
    return {"CHANNELS": channels, "PADDED": triton.next_power_of_2(channels), "POINTS": _POINTS}
