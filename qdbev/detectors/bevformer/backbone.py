"""ResNet whose first layer cuts the image into patches: cheap where images are small and the device is slow.

The standard stem (7x7 stride 2, then max pooling) costs a quarter of a small ResNet's time for its two large maps; a
4x4 convolution with stride 4 gives the same stride. Everything after the stem, and every name, is mmdet's ResNet.
"""

from __future__ import annotations

from mmdet.models.backbones import ResNet
from mmdet3d.registry import MODELS
from torch import nn

PATCH = 4


@MODELS.register_module()
class PatchResNet(ResNet):  # type: ignore[misc]  # mmdet is untyped
    """mmdet's ResNet with a 4x4 convolution of stride 4 as its stem."""

    def _make_stem_layer(self, in_channels: int, stem_channels: int) -> None:
        super()._make_stem_layer(in_channels, stem_channels)
        self.conv1 = nn.Conv2d(in_channels, stem_channels, PATCH, stride=PATCH, bias=False)
        self.maxpool = nn.Identity()
