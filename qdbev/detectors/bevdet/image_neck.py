"""BEVDet's image neck: a pyramid over two backbone maps of which the finer alone comes out.

Shapes: E images, C channels, H W of a map.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmdet3d.registry import MODELS
from torch import Tensor, nn


@MODELS.register_module()
class OneLevelFPN(nn.Module):
    """Lateral 1x1 convolutions, sum from coarse to fine, one 3x3 convolution; no norm, no activation."""

    def __init__(self, *, in_channels: Sequence[int], out_channels: int) -> None:
        """Builds it for the channels of the maps, finest first."""
        super().__init__()
        plain = {"norm_cfg": None, "act_cfg": None}
        self.lateral_convs = nn.ModuleList(ConvModule(count, out_channels, 1, **plain) for count in in_channels)
        self.fpn_convs = nn.ModuleList([ConvModule(out_channels, out_channels, 3, padding=1, **plain)])

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """The finest level (E, C, H, W)."""
        *finer, total = [lateral(level) for lateral, level in zip(self.lateral_convs, maps, strict=True)]
        for level in reversed(finer):
            total = level + F.interpolate(total, size=level.shape[-2:], mode="nearest")
        out: Tensor = self.fpn_convs[0](total)
        return out
