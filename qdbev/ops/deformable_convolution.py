"""DCNv2 (arXiv 1811.11168) and DCNv1 (1703.06211): mmcv's deformable convolutions for tensors of any memory format.

mmcv's kernels, on CPU and GPU, read their inputs as if channels were the outermost in memory, whatever the strides say:
in channels-last format, in which the rest of the backbone runs, their result is wrong without a warning (mmcv 2.1.0).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmcv.ops import DeformConv2dPack, ModulatedDeformConv2dPack, deform_conv2d, modulated_deform_conv2d
from torch import Tensor, nn

from qdbev.ops.shape_only import shape_only

_IMAGES_AT_ONCE = 32  # in the kernel of DCNv1, which asks for a divisor of their number


class DeformableConv(ModulatedDeformConv2dPack):  # type: ignore[misc]  # mmcv is untyped
    """mmcv's layer, with its names of parameters, whose kernel gets everything in the order that it reads."""

    def forward(self, x: Tensor) -> Tensor:
        """Offsets and mask from the input, then the convolution.

        Args:
            x: Map (B, C, H, W).

        Returns:
            Map (B, C', H', W').
        """
        first, second, mask = self.conv_offset(x).chunk(3, dim=1)
        tensors = (x, torch.cat((first, second), dim=1), mask.sigmoid(), self.weight)
        ready = [_ready(each) for each in tensors]
        found: Tensor = modulated_deform_conv2d(
            *ready, self.bias, self.stride, self.padding, self.dilation, self.groups, self.deform_groups
        )
        return found.to(x.dtype)


class DeformableConvV1(DeformConv2dPack):  # type: ignore[misc]  # mmcv is untyped
    """mmcv's layer without modulation, likewise; any number of images may come at once."""

    def forward(self, x: Tensor) -> Tensor:
        """Offsets from the input, then the convolution.

        Args:
            x: Map (B, C, H, W).

        Returns:
            Map (B, C', H', W').
        """
        ready = [_ready(each) for each in (x, self.conv_offset(x), self.weight)]
        together = next(count for count in range(_IMAGES_AT_ONCE, 0, -1) if len(x) % count == 0)
        found: Tensor = deform_conv2d(
            *ready, self.stride, self.padding, self.dilation, self.groups, self.deform_groups, False, together
        )
        return found.to(x.dtype)

    def _load_from_state_dict(self, *args: Any) -> None:
        """As torch's; mmcv's renames what it had in 2019 and prints a line each time."""
        nn.Module._load_from_state_dict(self, *args)


def _ready(tensor: Tensor) -> Tensor:
    """As the kernel reads it; bf16 and fp16, of autocast, as floats: on a CPU it computes in nothing smaller."""
    return (tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor).contiguous()


@contextmanager
def deformable_shapes(model: nn.Module) -> Iterator[None]:
    """Deformable convolutions run their offset branch and give an empty map: their kernel knows no meta device."""
    layers = [module for module in model.modules() if isinstance(module, (DeformConv2dPack, ModulatedDeformConv2dPack))]
    for layer in layers:
        layer.forward = _shape_of(layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _shape_of(layer: Any) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        offsets = layer.conv_offset(x)
        return shape_only(x, offsets, shape=(len(x), layer.out_channels, *offsets.shape[-2:]))

    return forward
