"""A ReLU that leaves its backward pass to the quantized layer behind it.

A layer whose input has unsigned integers stops the gradient of negative values; where it stops that of zeros as well,
it has done what a ReLU before it would do. It notes that on the gradient, and the ReLU looks whether the gradient that
it gets is that one, with nothing added by others who read its output. So the gradient of a ReLU's output, which hooks
and ``retain_grad`` see, is zero where the output is, and a hook must not change it behind the back of autograd.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from qdbev.quantization.grid.kernels import is_plain


class QuantReLU(nn.ReLU):
    """``ReLU`` in a quantized model: the same output, and the same gradient of its input."""

    def forward(self, input: Tensor) -> Tensor:
        """As ``nn.ReLU``."""
        if not (torch.is_grad_enabled() and input.requires_grad and input.is_cpu and is_plain(input)):
            return super().forward(input)
        result: Tensor = _Rectified.apply(input, self.inplace)
        return result


def is_rectified(x: Tensor) -> bool:
    """Whether a ``QuantReLU`` made this tensor, with gradients on."""
    return isinstance(x.grad_fn, _Rectified._backward_cls)  # type: ignore[attr-defined]


def note_rectified(gradient: Tensor) -> None:
    """Note on a gradient of a rectified tensor that it is zero where that tensor is."""
    if not gradient.is_inference():  # these have no version
        gradient.rectified = gradient._version  # type: ignore[attr-defined]


class _Rectified(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, in_place: bool) -> Tensor:
        if in_place:
            ctx.mark_dirty(x)
        result = x.relu_() if in_place else x.relu()
        ctx.save_for_backward(result)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,), (result,) = gradients, ctx.saved_tensors  # opened in any case: autograd checks its version
        noted = getattr(gradient, "rectified", None)
        if noted is not None and noted == gradient._version:  # what is added in place makes another version
            gradient.rectified = None  # type: ignore[attr-defined]  # it may go on, as it is, to a ReLU further up
            return gradient, None
        return torch.ops.aten.threshold_backward(gradient, result, 0), None
