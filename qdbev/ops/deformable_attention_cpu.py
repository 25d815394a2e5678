"""Deformable attention on a CPU, forward and backward, compiled by numba: one pass without intermediate samples.

Same numbers as ``torch_form`` in ``deformable_attention.py`` up to the order of summation.
Shapes: E images, S tokens of all levels, J queries, R rows, M heads, L levels, P points, C channels of one head.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Array = np.ndarray[Any, Any]


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    options: dict[str, Any] = {"nogil": True, "fastmath": {"contract", "nsz", "arcp", "reassoc"}}
    options |= {"error_model": "numpy"}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no folder to keep the compiled code in
        return numba.njit(**options)(function)


# In both kernels: (left, top) is the pixel at the upper left of the point, `..._near` how close the point is to a
# column or row (0 to 1). Points with all four pixels inside the level, nearly all of them, go without further checks.


@_compiled
def _forward(
    value: Array,
    shapes: Array,
    rows_e: Array,
    rows_j: Array,
    references: Array,
    offsets: Array,
    weights: Array,
    heads: Array,
    out: Array,
) -> None:
    levels, points, channels = weights.shape[2], weights.shape[3], value.shape[3]
    one, half = value.dtype.type(1), value.dtype.type(0.5)
    for r in range(len(rows_e)):
        e, j = rows_e[r], rows_j[r]
        start = 0
        for level in range(levels):
            rows, columns = shapes[level, 0], shapes[level, 1]
            height, width = value.dtype.type(rows), value.dtype.type(columns)
            for m in heads:
                for point in range(points):
                    seat, place = min(level, references.shape[1] - 1), min(point, references.shape[2] - 1)
                    x = references[r, seat, place, 0] * width + offsets[j, m, level, point, 0] - half
                    y = references[r, seat, place, 1] * height + offsets[j, m, level, point, 1] - half
                    if not (x > -1 and y > -1 and x < width and y < height):
                        continue
                    left, top = int(np.floor(x)), int(np.floor(y))
                    right_near, bottom_near = x - np.floor(x), y - np.floor(y)
                    left_near, top_near = one - right_near, one - bottom_near
                    weight = weights[j, m, level, point]
                    first = start + top * columns + left
                    if left >= 0 and top >= 0 and left + 1 < columns and top + 1 < rows:
                        share0, share1 = left_near * top_near * weight, right_near * top_near * weight
                        share2, share3 = left_near * bottom_near * weight, right_near * bottom_near * weight
                        for c in range(channels):
                            out[j, m, c] += (
                                share0 * value[e, first, m, c]
                                + share1 * value[e, first + 1, m, c]
                                + share2 * value[e, first + columns, m, c]
                                + share3 * value[e, first + columns + 1, m, c]
                            )
                        continue
                    for corner in range(4):
                        column, row = left + (corner & 1), top + (corner >> 1)
                        if column < 0 or row < 0 or column >= columns or row >= rows:
                            continue
                        near = (right_near if corner & 1 else left_near) * (bottom_near if corner >> 1 else top_near)
                        for c in range(channels):
                            out[j, m, c] += near * weight * value[e, start + row * columns + column, m, c]
            start += rows * columns


@_compiled
def _backward(
    grad_out: Array,
    value: Array,
    shapes: Array,
    rows_e: Array,
    rows_j: Array,
    references: Array,
    offsets: Array,
    weights: Array,
    heads: Array,
    grad_value: Array,
    grad_references: Array,
    grad_offsets: Array,
    grad_weights: Array,
) -> None:
    levels, points, channels = weights.shape[2], weights.shape[3], value.shape[3]
    one, half, zero = value.dtype.type(1), value.dtype.type(0.5), value.dtype.type(0)
    to_references = grad_references.size > 0
    for r in range(len(rows_e)):
        e, j = rows_e[r], rows_j[r]
        start = 0
        for level in range(levels):
            rows, columns = shapes[level, 0], shapes[level, 1]
            height, width = value.dtype.type(rows), value.dtype.type(columns)
            for m in heads:
                for point in range(points):
                    seat, place = min(level, references.shape[1] - 1), min(point, references.shape[2] - 1)
                    x = references[r, seat, place, 0] * width + offsets[j, m, level, point, 0] - half
                    y = references[r, seat, place, 1] * height + offsets[j, m, level, point, 1] - half
                    if not (x > -1 and y > -1 and x < width and y < height):
                        continue
                    left, top = int(np.floor(x)), int(np.floor(y))
                    right_near, bottom_near = x - np.floor(x), y - np.floor(y)
                    left_near, top_near = one - right_near, one - bottom_near
                    weight = weights[j, m, level, point]
                    first = start + top * columns + left
                    dot0, dot1, dot2, dot3 = zero, zero, zero, zero  # gradient times the value of each pixel
                    if left >= 0 and top >= 0 and left + 1 < columns and top + 1 < rows:
                        share0, share1 = left_near * top_near * weight, right_near * top_near * weight
                        share2, share3 = left_near * bottom_near * weight, right_near * bottom_near * weight
                        for c in range(channels):
                            grad = grad_out[j, m, c]
                            dot0 += grad * value[e, first, m, c]
                            dot1 += grad * value[e, first + 1, m, c]
                            dot2 += grad * value[e, first + columns, m, c]
                            dot3 += grad * value[e, first + columns + 1, m, c]
                        for c in range(channels):
                            grad_value[e, first, m, c] += share0 * grad_out[j, m, c]
                        for c in range(channels):
                            grad_value[e, first + 1, m, c] += share1 * grad_out[j, m, c]
                        for c in range(channels):
                            grad_value[e, first + columns, m, c] += share2 * grad_out[j, m, c]
                        for c in range(channels):
                            grad_value[e, first + columns + 1, m, c] += share3 * grad_out[j, m, c]
                    else:
                        for corner in range(4):
                            column, row = left + (corner & 1), top + (corner >> 1)
                            if column < 0 or row < 0 or column >= columns or row >= rows:
                                continue
                            near_x = right_near if corner & 1 else left_near
                            near_y = bottom_near if corner >> 1 else top_near
                            token, share, dot = start + row * columns + column, near_x * near_y * weight, zero
                            for c in range(channels):
                                dot += grad_out[j, m, c] * value[e, token, m, c]
                            for c in range(channels):
                                grad_value[e, token, m, c] += share * grad_out[j, m, c]
                            dot0 = dot if corner == 0 else dot0
                            dot1 = dot if corner == 1 else dot1
                            dot2 = dot if corner == 2 else dot2
                            dot3 = dot if corner == 3 else dot3
                    top_sum, bottom_sum = left_near * dot0 + right_near * dot1, left_near * dot2 + right_near * dot3
                    to_x = (top_near * (dot1 - dot0) + bottom_near * (dot3 - dot2)) * weight
                    to_y = (bottom_sum - top_sum) * weight
                    grad_weights[j, m, level, point] += top_near * top_sum + bottom_near * bottom_sum
                    grad_offsets[j, m, level, point, 0] += to_x
                    grad_offsets[j, m, level, point, 1] += to_y
                    if to_references:
                        grad_references[r, seat, place, 0] += to_x * width
                        grad_references[r, seat, place, 1] += to_y * height
            start += rows * columns


class DeformableAttentionCPU(torch.autograd.Function):
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
    ) -> Tensor:
        """(J, M, C); the axes L and P of the references may be 1."""
        floats = (value_ESMC, references_RLP2, offsets_JMLP2, weights_JMLP)
        value, references, offsets, weights = (each.contiguous() for each in floats)
        out = value.new_zeros(len(weights), *value.shape[2:])
        inputs = [value, shapes_L2, image_R, query_R, references, offsets, weights]
        _over_heads(_forward, inputs, [out], threads=torch.get_num_threads())
        ctx.save_for_backward(*inputs)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out_JMC: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of value, references, offsets and weights."""
        inputs: tuple[Tensor, ...] = ctx.saved_tensors
        value, _, _, _, references, offsets, weights = inputs
        wants_references = ctx.needs_input_grad[4]
        grad_references = torch.zeros_like(references) if wants_references else references.new_zeros(0, 1, 1, 2)
        grads = [torch.zeros_like(value), grad_references, torch.zeros_like(offsets), torch.zeros_like(weights)]
        # heads share the references, and nothing else
        threads = 1 if wants_references else torch.get_num_threads()
        _over_heads(_backward, [grad_out_JMC.contiguous(), *inputs], grads, threads=threads)
        return grads[0], None, None, None, grads[1] if wants_references else None, grads[2], grads[3]


def _over_heads(kernel: Callable[..., Any], inputs: list[Tensor], outputs: list[Tensor], *, threads: int) -> None:
    before, after = ([tensor.detach().numpy() for tensor in tensors] for tensors in (inputs, outputs))
    groups = np.array_split(np.arange(inputs[-1].shape[1]), min(threads, inputs[-1].shape[1]))
    if len(groups) == 1:
        kernel(*before, groups[0], *after)
        return
    with ThreadPoolExecutor(len(groups)) as pool:
        list(pool.map(lambda heads: kernel(*before, heads, *after), groups))
