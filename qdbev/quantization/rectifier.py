"""A ReLU that leaves its backward pass to the quantized layer behind it.

Unsigned integers begin where a ReLU's output begins, at zero: what such a layer lets back to its input, less what it
lets back to zeros, is what the ReLU would let through of it. The layer notes on the gradient that it did so, and the
ReLU looks whether the gradient that it gets is that one, with nothing added by others who read its output.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from qdbev.quantization.integers import is_plain


class QuantReLU(nn.ReLU):
    """``ReLU`` in a quantized model; the numbers are the same."""

    def forward(self, input: Tensor) -> Tensor:
        """As ``nn.ReLU``."""
        ours = torch.is_grad_enabled() and input.requires_grad and input.is_cpu and is_plain(input)
        if not ours or (self.inplace and input._is_view()):
            return super().forward(input)
        result: Tensor = _Rectified.apply(input, self.inplace)
        return result


def is_rectified(x: Tensor) -> bool:
    """Whether a :class:`QuantReLU` made this tensor, in training."""
    return isinstance(x.grad_fn, _Rectified._backward_cls)  # type: ignore[attr-defined]


def note_rectified(gradient: Tensor) -> None:
    """Note on a gradient of a rectified tensor that it is zero where that tensor is."""
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
        (gradient,) = gradients
        if getattr(gradient, "rectified", None) == gradient._version:  # what is added in place makes another version
            return gradient, None
        return torch.ops.aten.threshold_backward(gradient, ctx.saved_tensors[0], 0), None
