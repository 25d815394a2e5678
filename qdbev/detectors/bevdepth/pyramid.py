"""SECOND's neck: every map brought to one size by a strided or transposed convolution, then all together.

Shapes: E images or samples, C channels, H W of a map.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

EPSILON, MOMENTUM = 1e-3, 0.01  # of its batch norms, other than everywhere else


class Pyramid(nn.Module):
    """One block for each map; a stride below one shrinks."""

    def __init__(self, *, in_channels: Sequence[int], channels: int, strides: Sequence[float]) -> None:
        """Builds it; every block gives ``channels``."""
        super().__init__()
        blocks = zip(in_channels, strides, strict=True)
        self.deblocks = nn.ModuleList(_block(count, channels, stride=stride) for count, stride in blocks)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """The map (E, C, H, W) of all."""
        return torch.cat([block(level) for block, level in zip(self.deblocks, maps, strict=True)], 1)


def _block(in_channels: int, channels: int, *, stride: float) -> nn.Sequential:
    kind, size = (nn.ConvTranspose2d, round(stride)) if stride >= 1 else (nn.Conv2d, round(1 / stride))
    layer = kind(in_channels, channels, size, stride=size, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(layer, nn.BatchNorm2d(channels, eps=EPSILON, momentum=MOMENTUM), nn.ReLU(inplace=True))
