"""CPFPN, PETR's neck: a feature pyramid that smooths its finest level alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmdet3d.registry import MODELS
from mmengine.model import BaseModule
from torch import Tensor, nn


@MODELS.register_module()
class CPFPN(BaseModule):  # type: ignore[misc]  # mmengine is untyped
    """1x1 laterals, nearest top-down sums, a 3x3 convolution on level 0; the other levels are bare sums."""

    def __init__(self, in_channels: Sequence[int], out_channels: int) -> None:
        """Builds a lateral for each input, finest first; names as in the official checkpoints."""
        super().__init__(init_cfg={"type": "Xavier", "layer": "Conv2d", "distribution": "uniform"})
        self.lateral_convs = nn.ModuleList(ConvModule(width, out_channels, 1, act_cfg=None) for width in in_channels)
        self.fpn_convs = nn.ModuleList([ConvModule(out_channels, out_channels, 3, padding=1, act_cfg=None)])

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Levels of the inputs' sizes."""
        levels = [lateral(x) for lateral, x in zip(self.lateral_convs, inputs, strict=True)]
        for number in range(len(levels) - 1, 0, -1):
            size = levels[number - 1].shape[2:]
            levels[number - 1] = levels[number - 1] + F.interpolate(levels[number], size=size, mode="nearest")
        return (self.fpn_convs[0](levels[0]), *levels[1:])
