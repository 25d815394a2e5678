"""CenterPoint's head, with its parameter names: one convolution for all, then six small maps for each group of classes.

Shapes: B samples, C channels, H W of the map.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from mmcv.cnn import ConvModule
from torch import Tensor, nn

TASKS = ((0,), (1, 2), (3, 4), (5,), (6, 7), (8, 9))
"""nuScenes' classes in groups of a size, by index: car; truck and construction vehicle; bus and trailer; barrier;
motorcycle and bicycle; pedestrian and traffic cone."""
OUTPUTS = {"reg": 2, "height": 1, "dim": 3, "rot": 2, "vel": 2}
HEAT = "heatmap"


@dataclass(frozen=True)
class TaskMaps:
    """What one group of classes gives.

    Attributes:
        heat_BCHW: Logits of its classes.
        code_B10HW: Offset in the cell, height, log sizes, sin and cos, velocity.
    """

    heat_BCHW: Tensor
    code_B10HW: Tensor


class CentreHead(nn.Module):
    """The head; ``shared_conv`` and ``task_heads`` are the official names."""

    def __init__(
        self,
        *,
        in_channels: int,
        channels: int,
        tasks: Sequence[Sequence[int]] = TASKS,
        heat_bias: float | None = None,
    ) -> None:
        """Builds and initialises.

        Args:
            in_channels: Of the BEV map.
            channels: Of every map in between.
            tasks: Class indices of each group.
            heat_bias: Bias that class logits start with; None leaves PyTorch's own.
        """
        super().__init__()
        self.shared_conv = _conv(in_channels, channels)
        self.task_heads = nn.ModuleList(_task_head(channels, len(classes)) for classes in tasks)
        if heat_bias is not None:
            for head in self.task_heads:
                nn.init.constant_(head[HEAT][-1].bias, heat_bias)  # type: ignore[index, arg-type]

    def forward(self, bev_BCHW: Tensor) -> list[TaskMaps]:
        """The maps of every group."""
        shared = self.shared_conv(bev_BCHW)
        return [_maps({name: branch(shared).float() for name, branch in head.items()}) for head in self.task_heads]  # type: ignore[operator]

    def last_layers(self) -> list[nn.Module]:
        """The layers that maps come out of."""
        return [branch[-1] for head in self.task_heads for branch in head.values()]  # type: ignore[operator]


def _maps(outputs: dict[str, Tensor]) -> TaskMaps:
    return TaskMaps(outputs[HEAT], torch.cat([outputs[name] for name in OUTPUTS], 1))


def _conv(in_channels: int, channels: int) -> ConvModule:
    return ConvModule(in_channels, channels, 3, padding=1, norm_cfg={"type": "BN"})


def _task_head(channels: int, classes: int) -> nn.ModuleDict:
    sizes = OUTPUTS | {HEAT: classes}
    return nn.ModuleDict(
        {
            name: nn.Sequential(_conv(channels, channels), nn.Conv2d(channels, size, 3, padding=1))
            for name, size in sizes.items()
        }
    )
