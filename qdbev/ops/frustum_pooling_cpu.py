"""Frustum pooling on a CPU, forward and backward, compiled by numba: one pass over the points, no products in memory.

Same numbers as ``direct_form`` in ``frustum_pooling.py`` up to the order of summation; threads share the channels
(forward) or the images (backward), so their number changes nothing.
Shapes: E images, D depths, P pixels, C channels, G cells.
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
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no folder to keep the compiled code in
        return numba.njit(**options)(function)


@_compiled
def _forward(depth: Array, context: Array, cells: Array, out: Array, first: int, stop: int) -> None:
    """Sum the channels ``first`` .. ``stop`` - 1."""
    images, depths, pixels = depth.shape
    for e in range(images):
        for d in range(depths):
            for p in range(pixels):
                cell = cells[e, d, p]
                if cell < 0:
                    continue
                weight = depth[e, d, p]
                for c in range(first, stop):
                    out[cell, c] += weight * context[e, p, c]


@_compiled
def _backward(
    grad_out: Array,
    depth: Array,
    context: Array,
    cells: Array,
    grad_depth: Array,
    grad_context: Array,
    first: int,
    stop: int,
) -> None:
    """Gradients of the images ``first`` .. ``stop`` - 1."""
    _, depths, pixels = depth.shape
    channels = context.shape[2]
    for e in range(first, stop):
        for d in range(depths):
            for p in range(pixels):
                cell = cells[e, d, p]
                if cell < 0:
                    continue
                weight = depth[e, d, p]
                dot = weight - weight
                for c in range(channels):
                    dot += grad_out[cell, c] * context[e, p, c]
                for c in range(channels):
                    grad_context[e, p, c] += weight * grad_out[cell, c]
                grad_depth[e, d, p] = dot


class FrustumPoolingCPU(torch.autograd.Function):
    """The kernels as one differentiable operation; both floating tensors are of one type."""

    @staticmethod
    def forward(ctx: Any, depth_EDP: Tensor, context_EPC: Tensor, cells_EDP: Tensor, cells: int) -> Tensor:
        """(G, C)."""
        inputs = [tensor.contiguous() for tensor in (depth_EDP, context_EPC, cells_EDP)]
        ctx.save_for_backward(*inputs)
        out = context_EPC.new_zeros(cells, context_EPC.shape[-1])
        _shared(_forward, [*inputs, out], count=out.shape[1])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out_GC: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of depth and context."""
        inputs = list(ctx.saved_tensors)
        grads = [torch.zeros_like(tensor) for tensor in inputs[:2]]
        _shared(_backward, [grad_out_GC.contiguous(), *inputs, *grads], count=len(inputs[0]))
        return grads[0], grads[1], None, None


def _shared(kernel: Callable[..., Any], tensors: list[Tensor], *, count: int) -> None:
    """Run a kernel on ranges of ``count`` channels or images, one a thread."""
    arrays = [tensor.detach().numpy() for tensor in tensors]
    ranges = [
        (int(part[0]), int(part[-1]) + 1) for part in np.array_split(np.arange(count), _threads(count)) if len(part)
    ]
    if len(ranges) == 1:
        kernel(*arrays, *ranges[0])
        return
    with ThreadPoolExecutor(max(len(ranges), 1)) as pool:
        list(pool.map(lambda limits: kernel(*arrays, *limits), ranges))


def _threads(count: int) -> int:
    return max(min(torch.get_num_threads(), count), 1)
