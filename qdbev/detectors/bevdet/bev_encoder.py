"""BEVDet's encoder of the ground: residual stages, and a neck of two of them.

Shapes: B samples, C channels, H W of a map.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmdet.models.backbones.resnet import BasicBlock
from torch import Tensor, nn

COARSE_SCALE, OUT_SCALE = 4, 2


class BevStages(nn.Module):
    """Stages of two basic blocks; the shortcut of each first one is a 3x3 convolution with bias and without a norm."""

    def __init__(self, *, in_channels: int, channels: Sequence[int], strides: Sequence[int]) -> None:
        """Builds one stage per entry of ``channels``."""
        super().__init__()
        inputs = [in_channels, *channels[:-1]]
        self.layers = nn.ModuleList(_stage(*sizes) for sizes in zip(inputs, channels, strides, strict=True))

    def forward(self, bev_BCHW: Tensor) -> list[Tensor]:
        """The output of every stage."""
        outputs = []
        for layer in self.layers:
            bev_BCHW = layer(bev_BCHW)
            outputs.append(bev_BCHW)
        return outputs


def _stage(in_channels: int, channels: int, stride: int) -> nn.Sequential:
    shortcut = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1)
    return nn.Sequential(
        BasicBlock(in_channels, channels, stride=stride, downsample=shortcut), BasicBlock(channels, channels)
    )


class BevNeck(nn.Module):
    """The coarsest stage enlarged to the finest, both together, then enlarged to the grid."""

    def __init__(self, *, in_channels: int, channels: int) -> None:
        """Builds it; ``in_channels`` are those of both stages together."""
        super().__init__()
        wide = 2 * channels
        self.up = nn.Upsample(scale_factor=COARSE_SCALE, mode="bilinear", align_corners=True)
        self.conv = nn.Sequential(*_conv(in_channels, wide), *_conv(wide, wide))
        self.up2 = nn.Sequential(
            nn.Upsample(scale_factor=OUT_SCALE, mode="bilinear", align_corners=True),
            *_conv(wide, channels),
            nn.Conv2d(channels, channels, 1),
        )

    def forward(self, stages: Sequence[Tensor]) -> Tensor:
        """The map (B, C, H, W) of the grid's size."""
        both = torch.cat([stages[0], self.up(stages[-1])], 1)
        out: Tensor = self.up2(self.conv(both))
        return out


def _conv(in_channels: int, channels: int) -> list[nn.Module]:
    return [
        nn.Conv2d(in_channels, channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
    ]
