"""Deformable attention on a GPU, forward and backward, compiled by Triton: one launch each, no intermediate samples.

A program does some rows of one head, its channels side by side. Rows of the same query add up by atomic operations,
and so do the gradients of shared pixels: their order, and with it the last bits, may differ from run to run.
Same numbers as ``torch_form`` in ``deformable_attention.py`` up to the order of summation.
Shapes: E images, S tokens of all levels, J queries, R rows, M heads, L levels, P points, C channels of one head.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

_TILE = 512  # elements, rows times channels, that a program holds at a time: four a thread, so that registers suffice


# (left, top) is the pixel at the upper left of a point, `right_near` and `bottom_near` how close the point is to the
# next column and row (0 to 1). A point is `near` where any of its four pixels may lie inside the level.


@triton.jit
def _point(references, offsets, row, there, k, seat, place, seats, places, width, height):  # type: ignore[no-untyped-def]
    at = ((row * seats + seat) * places + place) * 2
    x = tl.load(references + at, mask=there, other=0) * width + tl.load(offsets + 2 * k, mask=there, other=0) - 0.5
    y = tl.load(references + at + 1, mask=there, other=0) * height + tl.load(offsets + 2 * k + 1, mask=there, other=0)
    y -= 0.5
    near = there & (x > -1) & (y > -1) & (x < width) & (y < height)
    x, y = tl.where(near, x, 0), tl.where(near, y, 0)
    left, top = tl.floor(x), tl.floor(y)
    return at, near, left.to(tl.int32), top.to(tl.int32), x - left, y - top


@triton.jit
def _pixel(value, base, near, left, top, corner: tl.constexpr, width, height, row_stride, channel, filled):  # type: ignore[no-untyped-def]
    """Address and validity of one of the four pixels, and its values; zero outside the level."""
    column, line = left + corner % 2, top + corner // 2
    inside = near & (column >= 0) & (line >= 0) & (column < width) & (line < height)
    at = (base + (line * width + column) * row_stride)[:, None] + channel[None, :]
    mask = inside[:, None] & filled[None, :]
    return at, mask, tl.load(value + at, mask=mask, other=0)


@triton.jit
def _forward(  # type: ignore[no-untyped-def]
    value,
    shapes,
    image,
    query,
    references,
    offsets,
    weights,
    out,
    row_count,
    tokens,
    seats,
    places,
    HEADS: tl.constexpr,
    LEVELS: tl.constexpr,
    POINTS: tl.constexpr,
    CHANNELS: tl.constexpr,
    PADDED: tl.constexpr,
    ROWS: tl.constexpr,
    SHARED: tl.constexpr,
):
    row, m = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.program_id(1)
    there = row < row_count
    e, j = tl.load(image + row, mask=there, other=0), tl.load(query + row, mask=there, other=0)
    channel = tl.arange(0, PADDED)
    filled = channel < CHANNELS
    base = (e.to(tl.int64) * tokens * HEADS + m) * CHANNELS
    total = tl.zeros((ROWS, PADDED), dtype=value.dtype.element_ty)
    for level in range(LEVELS):
        height, width = tl.load(shapes + 2 * level), tl.load(shapes + 2 * level + 1)
        for point in range(POINTS):
            k = ((j * HEADS + m) * LEVELS + level) * POINTS + point
            seat, place = tl.minimum(level, seats - 1), tl.minimum(point, places - 1)
            _, near, left, top, right_near, bottom_near = _point(
                references, offsets, row, there, k, seat, place, seats, places, width, height
            )
            weight = tl.load(weights + k, mask=near, other=0)
            for corner in tl.static_range(4):
                _, _, pixel = _pixel(
                    value, base, near, left, top, corner, width, height, HEADS * CHANNELS, channel, filled
                )
                share = (right_near if corner % 2 else 1 - right_near) * (
                    bottom_near if corner // 2 else 1 - bottom_near
                )
                total += (share * weight)[:, None] * pixel
        base += height * width * HEADS * CHANNELS
    at, mask = ((j * HEADS + m) * CHANNELS)[:, None] + channel[None, :], there[:, None] & filled[None, :]
    if SHARED:
        tl.atomic_add(out + at, total, mask=mask, sem="relaxed")
    else:
        tl.store(out + at, total, mask=mask)


@triton.jit
def _put(target, at, what, mask, SHARED: tl.constexpr):  # type: ignore[no-untyped-def]
    if SHARED:
        tl.atomic_add(target + at, what, mask=mask, sem="relaxed")
    else:
        tl.store(target + at, what, mask=mask)


@triton.jit
def _backward(  # type: ignore[no-untyped-def]
    grad_out,
    value,
    shapes,
    image,
    query,
    references,
    offsets,
    weights,
    grad_value,
    grad_references,
    grad_offsets,
    grad_weights,
    row_count,
    tokens,
    seats,
    places,
    HEADS: tl.constexpr,
    LEVELS: tl.constexpr,
    POINTS: tl.constexpr,
    CHANNELS: tl.constexpr,
    PADDED: tl.constexpr,
    ROWS: tl.constexpr,
    SHARED: tl.constexpr,
    TO_REFERENCES: tl.constexpr,
):
    row, m = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.program_id(1)
    there = row < row_count
    e, j = tl.load(image + row, mask=there, other=0), tl.load(query + row, mask=there, other=0)
    channel = tl.arange(0, PADDED)
    filled = channel < CHANNELS
    base = (e.to(tl.int64) * tokens * HEADS + m) * CHANNELS
    at_out = ((j * HEADS + m) * CHANNELS)[:, None] + channel[None, :]
    gradient = tl.load(grad_out + at_out, mask=there[:, None] & filled[None, :], other=0)
    for level in range(LEVELS):
        height, width = tl.load(shapes + 2 * level), tl.load(shapes + 2 * level + 1)
        for point in range(POINTS):
            k = ((j * HEADS + m) * LEVELS + level) * POINTS + point
            seat, place = tl.minimum(level, seats - 1), tl.minimum(point, places - 1)
            at, near, left, top, right_near, bottom_near = _point(
                references, offsets, row, there, k, seat, place, seats, places, width, height
            )
            weight = tl.load(weights + k, mask=near, other=0)
            to_weight, to_x, to_y = tl.zeros_like(weight), tl.zeros_like(weight), tl.zeros_like(weight)
            for corner in tl.static_range(4):
                at_pixel, mask, pixel = _pixel(
                    value, base, near, left, top, corner, width, height, HEADS * CHANNELS, channel, filled
                )
                near_x = right_near if corner % 2 else 1 - right_near
                near_y = bottom_near if corner // 2 else 1 - bottom_near
                dot = tl.sum(gradient * pixel, axis=1)  # the gradient times the value of the pixel
                to_weight += near_x * near_y * dot
                to_x += near_y * dot if corner % 2 else -near_y * dot
                to_y += near_x * dot if corner // 2 else -near_x * dot
                share = (near_x * near_y * weight)[:, None]
                tl.atomic_add(grad_value + at_pixel, share * gradient, mask=mask, sem="relaxed")
            _put(grad_weights, k, to_weight, there, SHARED)
            _put(grad_offsets, 2 * k, to_x * weight, there, SHARED)
            _put(grad_offsets, 2 * k + 1, to_y * weight, there, SHARED)
            if TO_REFERENCES:
                tl.atomic_add(grad_references + at, to_x * weight * width, mask=near, sem="relaxed")
                tl.atomic_add(grad_references + at + 1, to_y * weight * height, mask=near, sem="relaxed")
        base += height * width * HEADS * CHANNELS


class DeformableAttentionTriton(torch.autograd.Function):
    """The kernels as one differentiable operation; all floating tensors are of one type."""

    @staticmethod
    def forward(
        ctx: Any,
        value_ESMC: Tensor,
        shapes_L2: Tensor,
        image_R: Tensor,
        query_R: Tensor,
        references_RLP2: Tensor,
        offsets_JMLP2: Tensor,
        weights_JMLP: Tensor,
        one_row_each: bool,
    ) -> Tensor:
        """(J, M, C); the axes L and P of the references may be 1. ``one_row_each``: each query has exactly one row."""
        floats = (value_ESMC, references_RLP2, offsets_JMLP2, weights_JMLP)
        value, references, offsets, weights = (each.contiguous() for each in floats)
        out = value.new_zeros(len(weights), *value.shape[2:])
        inputs = [value, shapes_L2, image_R, query_R, references, offsets, weights]
        _launch(_forward, inputs, [out], SHARED=not one_row_each)
        ctx.save_for_backward(*inputs)
        ctx.one_row_each = one_row_each
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out_JMC: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of value, references, offsets and weights."""
        inputs: tuple[Tensor, ...] = ctx.saved_tensors
        value, _, _, _, references, offsets, weights = inputs
        wants_references = ctx.needs_input_grad[4]
        grads = [torch.zeros_like(value), torch.zeros_like(references) if wants_references else references]
        grads += [torch.zeros_like(offsets), torch.zeros_like(weights)]
        flags = {"SHARED": not ctx.one_row_each, "TO_REFERENCES": wants_references}
        _launch(_backward, inputs, grads, before=[grad_out_JMC.contiguous()], **flags)
        return grads[0], None, None, None, grads[1] if wants_references else None, grads[2], grads[3], None


def _launch(
    kernel: Any, inputs: Any, outputs: list[Tensor], *, before: list[Tensor] | None = None, **flags: bool
) -> None:
    """Run a kernel over blocks of rows and all heads."""
    value, _, image, _, references, _, weights = inputs
    if not len(image):
        return
    heads, levels, points = weights.shape[1:]
    channels = value.shape[3]
    padded = triton.next_power_of_2(channels)
    rows = max(1, min(_TILE // padded, 64))
    blocks: Callable[..., Any] = kernel[(triton.cdiv(len(image), rows), heads)]
    sizes = (len(image), value.shape[1], references.shape[1], references.shape[2])
    with torch.cuda.device_of(value):
        blocks(
            *(before or []), *inputs, *outputs, *sizes, HEADS=heads, LEVELS=levels, POINTS=points, CHANNELS=channels,
            PADDED=padded, ROWS=rows, num_warps=4, **flags,
        )  # fmt: skip
