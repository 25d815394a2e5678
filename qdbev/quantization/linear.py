"""A linear layer on quantized tensors, whose backward pass reads the real values of its input once, not twice.

Autograd asks a layer for the gradients of input and weight together. For that of the weight the quantized input is made
again from the real values (:mod:`qdbev.quantization.recomputation`); that of the input then passes back through the
quantizer, which reads them once more. Here the gradient of the input comes first, and one pass over memory makes the
quantized input again and lets the gradient through. A convolution gains nothing by it.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from qdbev.quantization.recomputation import node_of, pack, recomputing


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return ``F.linear`` of a quantized input and a quantized weight, with the same gradients, bit for bit.

    That of a learned scale is a sum over all elements, and the same up to their order.
    It is ``F.linear`` where there is no such pass, no batch, no gradient to either side, a type to be changed by
    autocast, or a compiler that sees the graph.
    """
    node = node_of(x) if torch.is_grad_enabled() and weight.requires_grad else None
    in_one = x.ndim > 1 and hasattr(node, "remake_and_pass") and not torch.is_autocast_enabled(x.device.type)
    with recomputing():
        if not in_one or torch.compiler.is_compiling():
            return F.linear(x, weight, bias)
        result: Tensor = _InputFirst.apply(x, weight, bias, node)
        return result


class _InputFirst(torch.autograd.Function):
    """The gradient of the input first; ``node`` is its quantizer's."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, node: Any) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.node, ctx.weight = node, pack(weight)
        result = F.linear(x, weight, bias)
        return torch.ops.aten._unsafe_view(result, result.shape)  # a view from in here could not be changed in place

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        rows, (reads, _, has_bias, _) = gradient.flatten(0, -2), ctx.needs_input_grad
        to_input: Tensor | None = None
        if torch.is_grad_enabled():  # a backward pass that is differentiated itself
            x, weight = ctx.saved_tensors
            to_input = gradient @ weight
        elif reads:
            x, to_input = ctx.node.remake_and_pass(ctx.node, gradient @ ctx.weight.unpack())
        else:  # asked for the weight's alone
            x = ctx.node.remake(ctx.node)
        return to_input, rows.t() @ x.flatten(0, -2), rows.sum(0) if has_bias else None, None
