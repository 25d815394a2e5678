"""BEVDepth's depth network: depths and features of every pixel, told by the camera that sees them.

Shapes: E images, C channels, H W of the neck's map.
"""

from __future__ import annotations

import torch
from mmdet.models.backbones.resnet import BasicBlock
from torch import Tensor, nn

from qdbev.ops.deformable_convolution import DeformableConvV1

CAMERA_NUMBERS = 27
_RATES = (1, 6, 12, 18)


class DepthNet(nn.Module):
    """Official names; the depths come first in what it gives."""

    def __init__(self, *, in_channels: int, width: int, channels: int, depths: int, groups: int) -> None:
        """Builds it.

        Args:
            in_channels: Of the neck's map.
            width: Of everything inside.
            channels: Features of a pixel.
            depths: Depths.
            groups: Of the deformable convolution's weights.
        """
        super().__init__()
        self.reduce_conv = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        )
        self.context_conv = nn.Conv2d(width, channels, 1)
        self.bn = nn.BatchNorm1d(CAMERA_NUMBERS)
        self.depth_mlp, self.depth_se = CameraLayers(width), Gate(width)
        self.context_mlp, self.context_se = CameraLayers(width), Gate(width)
        self.depth_conv = nn.Sequential(
            *(BasicBlock(width, width) for _ in range(3)),
            DilatedPyramid(width),
            DeformableConvV1(width, width, 3, padding=1, groups=groups),
            nn.Conv2d(width, depths, 1),
        )

    def forward(self, image_ECHW: Tensor, *, camera_E27: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (E, depths, H, W) and features (E, channels, H, W)."""
        camera = self.bn(camera_E27)
        image = self.reduce_conv(image_ECHW)
        context = self.context_conv(self.context_se(image, self.context_mlp(camera)))
        return self.depth_conv(self.depth_se(image, self.depth_mlp(camera))), context


class CameraLayers(nn.Module):
    """Two linear layers on the camera's numbers."""

    def __init__(self, width: int) -> None:
        """Builds them."""
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(CAMERA_NUMBERS, width), nn.Linear(width, width)

    def forward(self, camera_E27: Tensor) -> Tensor:
        """(E, C)."""
        out: Tensor = self.fc2(self.fc1(camera_E27).relu())
        return out


class Gate(nn.Module):
    """Channels of an image weighed by what is known of its camera."""

    def __init__(self, width: int) -> None:
        """Builds it."""
        super().__init__()
        self.conv_reduce, self.conv_expand = nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 1)

    def forward(self, image_ECHW: Tensor, camera_EC: Tensor) -> Tensor:
        """The image's map, weighed."""
        gate = self.conv_expand(self.conv_reduce(camera_EC[..., None, None]).relu())
        return image_ECHW * gate.sigmoid()


class DilatedPyramid(nn.Module):
    """ASPP: four dilations and the mean of the image, together."""

    def __init__(self, width: int) -> None:
        """Builds it."""
        super().__init__()
        self.aspp1, self.aspp2, self.aspp3, self.aspp4 = (Dilated(width, rate=rate) for rate in _RATES)
        self.global_avg_pool = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(width, width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        )
        self.conv1, self.bn1 = nn.Conv2d(5 * width, width, 1, bias=False), nn.BatchNorm2d(width)
        self.dropout = nn.Dropout(0.5)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, image_ECHW: Tensor) -> Tensor:
        """A map of the same size."""
        branches = [branch(image_ECHW) for branch in (self.aspp1, self.aspp2, self.aspp3, self.aspp4)]
        mean = self.global_avg_pool(image_ECHW).expand_as(branches[0])
        out: Tensor = self.dropout(self.bn1(self.conv1(torch.cat([*branches, mean], 1))).relu())
        return out


class Dilated(nn.Module):
    """A convolution with holes, norm and ReLU; 1x1 where there are none."""

    def __init__(self, width: int, *, rate: int) -> None:
        """Builds it."""
        super().__init__()
        size, padding = (1, 0) if rate == 1 else (3, rate)
        self.atrous_conv = nn.Conv2d(width, width, size, padding=padding, dilation=rate, bias=False)
        self.bn = nn.BatchNorm2d(width)

    def forward(self, image_ECHW: Tensor) -> Tensor:
        """A map of the same size."""
        out: Tensor = self.bn(self.atrous_conv(image_ECHW)).relu()
        return out
