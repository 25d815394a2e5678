"""DCNv2, Zhu et al. 2019 (arXiv 1811.11168): mmcv's modulated deformable convolution for tensors of any memory format.

mmcv's kernels, on CPU and GPU, read their inputs as if channels were the outermost in memory, whatever the strides say:
in channels-last format, in which the rest of the backbone runs, their result is wrong without a warning (mmcv 2.1.0).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmcv.ops import ModulatedDeformConv2dPack, modulated_deform_conv2d
from torch import Tensor, nn

from qdbev.ops.shape_only import shape_only


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
        ready = [each.contiguous() for each in tensors]
        found: Tensor = modulated_deform_conv2d(
            *ready, self.bias, self.stride, self.padding, self.dilation, self.groups, self.deform_groups
        )
        return found


@contextmanager
def deformable_shapes(model: nn.Module) -> Iterator[None]:
    """Deformable convolutions run their offset branch and give an empty map: their kernel knows no meta device."""
    layers = [module for module in model.modules() if isinstance(module, ModulatedDeformConv2dPack)]
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
