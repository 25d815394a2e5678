"""DCNv2, Zhu et al. 2019 (arXiv 1811.11168): mmcv's modulated deformable convolution for tensors of any memory format.

mmcv's kernels, on CPU and GPU, read their inputs as if channels were the outermost in memory, whatever the strides say:
in channels-last format, in which the rest of the backbone runs, their result is wrong without a warning (mmcv 2.1.0).
"""

from __future__ import annotations

import torch
from mmcv.ops import ModulatedDeformConv2dPack, modulated_deform_conv2d
from torch import Tensor


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
