"""Sums of lifted image features by cell, Lift-Splat-Shoot (arXiv 2008.05711) section 3.1, without the lifted features.

Point (e, d, p) of a frustum carries ``depth[e, d, p] * context[e, p]`` into its cell. The products of all points,
depths times pixels times channels, are never in memory at once, neither forward nor backward.

Shapes: E images, D depths, P pixels of a feature map, C channels, G cells of all samples.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from qdbev.ops.deformable_attention import has_cpu_kernel, has_triton
from qdbev.ops.shape_only import shape_only

Form = Callable[[Tensor, Tensor, Tensor, int], Tensor]
NO_CELL = -1
"""The cell of a point that lies outside the grid."""


def pool_frustum(depth_EDP: Tensor, context_EPC: Tensor, *, cells_EDP: Tensor, cells: int) -> Tensor:
    """Sum what the points of frustums carry, cell by cell.

    Computed in float32 at least: our own kernels on a CPU with numba and on a GPU with Triton, torch operations
    elsewhere.

    Args:
        depth_EDP: Weight of each depth at each pixel, usually summing to one over D.
        context_EPC: Features of each pixel.
        cells_EDP: Cell of each point, integers of 0 to ``cells`` - 1, or -1 for none; no gradient goes into it.
        cells: Number of cells.

    Returns:
        (G, C) in the type of ``context_EPC``; cells that no point lies in are zero.

    Raises:
        ValueError: Shapes that do not fit each other.

    >>> depth = torch.tensor([[[0.25], [0.75]]])  # one pixel, two depths
    >>> pool_frustum(depth, torch.tensor([[[8.0, 4.0]]]), cells_EDP=torch.tensor([[[1], [-1]]]), cells=2).tolist()
    [[0.0, 0.0], [2.0, 1.0]]
    """
    images, _, pixels = depth_EDP.shape
    if cells_EDP.shape != depth_EDP.shape or context_EPC.shape[:2] != (images, pixels):
        raise ValueError(
            f"depth has shape {tuple(depth_EDP.shape)}, cells {tuple(cells_EDP.shape)} and context "
            f"{tuple(context_EPC.shape)}; expected (E, D, P), the same, and (E, P, C)"
        )
    if context_EPC.is_meta:
        return shape_only(context_EPC, depth_EDP, shape=(cells, context_EPC.shape[-1]))
    precise = torch.promote_types(context_EPC.dtype, torch.float32)
    pooled = _form(context_EPC)(depth_EDP.to(precise), context_EPC.to(precise), cells_EDP, cells)
    return pooled.to(context_EPC.dtype)


def _form(context: Tensor) -> Form:
    """What computes it on this device, and what an exporter can write."""
    if torch.onnx.is_in_onnx_export():
        return graph_form
    if context.is_cpu and has_cpu_kernel():
        return cpu_form
    if context.is_cuda and has_triton():
        return triton_form
    return torch_form


def cpu_form(depth: Tensor, context: Tensor, cells_EDP: Tensor, cells: int) -> Tensor:
    """The kernel of ``frustum_pooling_cpu.py``."""
    from qdbev.ops.frustum_pooling_cpu import FrustumPoolingCPU

    out: Tensor = FrustumPoolingCPU.apply(depth, context, cells_EDP, cells)
    return out


def triton_form(depth: Tensor, context: Tensor, cells_EDP: Tensor, cells: int) -> Tensor:
    """The kernels of ``frustum_pooling_triton.py``."""
    from qdbev.ops.frustum_pooling_triton import FrustumPoolingTriton

    out: Tensor = FrustumPoolingTriton.apply(depth, context, cells_EDP, cells)
    return out


def torch_form(depth: Tensor, context: Tensor, cells_EDP: Tensor, cells: int) -> Tensor:
    """Torch operations, depth after depth; any device."""
    out: Tensor = _DepthByDepth.apply(depth, context, cells_EDP, cells)
    return out


def graph_form(depth: Tensor, context: Tensor, cells_EDP: Tensor, cells: int) -> Tensor:
    """Torch operations that a graph can hold, some depths at a time: no more points at once than there are cells.

    Whoever writes the graph has to add what falls into one cell twice; torch's own symbol of ``index_add`` does not.
    """
    out = context.new_zeros(cells + 1, context.shape[-1])
    images, depths, pixels = depth.shape
    index_EDP, at_once = _or_last(cells_EDP, cells=cells), max(1, (cells + 1) // (images * pixels))
    for first in range(0, depths, at_once):
        places = slice(first, first + at_once)
        products_EDPC = depth[:, places, :, None] * context[:, None]
        out = out.index_add(0, index_EDP[:, places].flatten(), products_EDPC.flatten(0, 2))
    return out[:cells]


def direct_form(depth: Tensor, context: Tensor, cells_EDP: Tensor, cells: int) -> Tensor:
    """The definition, with all products in memory: what the other forms are compared with."""
    lifted_XC = (depth[..., None] * context[:, None]).flatten(0, 2)
    out = context.new_zeros(cells + 1, context.shape[-1])
    return out.index_add(0, _or_last(cells_EDP, cells=cells).flatten(), lifted_XC)[:cells]


def _or_last(cells_EDP: Tensor, *, cells: int) -> Tensor:
    """Points without a cell go into one behind the last, which is cut off."""
    return cells_EDP.long().masked_fill(cells_EDP < 0, cells)


class _DepthByDepth(torch.autograd.Function):
    """One depth of all images at a time: products of pixels times channels only."""

    @staticmethod
    def forward(ctx: Any, depth_EDP: Tensor, context_EPC: Tensor, cells_EDP: Tensor, cells: int) -> Tensor:
        ctx.save_for_backward(depth_EDP, context_EPC, cells_EDP)
        out = context_EPC.new_zeros(cells + 1, context_EPC.shape[-1])
        for depth_EP, cells_EP in zip(depth_EDP.unbind(1), cells_EDP.unbind(1), strict=True):
            products = (depth_EP[..., None] * context_EPC).flatten(0, 1)
            out.index_add_(0, _or_last(cells_EP, cells=cells).flatten(), products)
        return out[:cells]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out_GC: Tensor) -> tuple[Tensor | None, ...]:
        depth_EDP, context_EPC, cells_EDP = ctx.saved_tensors
        cells = len(grad_out_GC)
        padded = torch.cat([grad_out_GC, grad_out_GC.new_zeros(1, grad_out_GC.shape[1])])
        grad_depth, grad_context = torch.zeros_like(depth_EDP), torch.zeros_like(context_EPC)
        for place in range(depth_EDP.shape[1]):
            grad_EPC = padded[_or_last(cells_EDP[:, place], cells=cells)]
            grad_depth[:, place] = (grad_EPC * context_EPC).sum(-1)
            grad_context += depth_EDP[:, place, :, None] * grad_EPC
        return grad_depth, grad_context, None, None
