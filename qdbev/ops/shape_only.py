"""An output as a shape alone, for kernels that know no meta device; the backward pass is prepared, never run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def shape_only(*inputs: Tensor, shape: Sequence[int]) -> Tensor:
    """An empty tensor of a shape, made from ``inputs`` as far as memory is concerned.

    Where gradients are wanted it holds on to the inputs, as the kernel's backward pass would.

    Args:
        inputs: What the kernel reads; the first decides type and device.
        shape: Of the result.
    """
    result: Tensor = _ShapeOnly.apply(tuple(shape), *inputs)
    return result


class _ShapeOnly(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, shape: tuple[int, ...], *inputs: Tensor) -> Tensor:
        ctx.save_for_backward(*inputs)
        return inputs[0].new_empty(shape)
