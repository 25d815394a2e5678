"""BEVDepth's head on the ground: a residual trunk without pooling, a neck over it and its input, a centre head.

Shapes: B samples, C channels, H W of the map.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmdet3d.registry import MODELS
from torch import Tensor

from qdbev.detectors.bevdepth.pyramid import Pyramid
from qdbev.detectors.centre import TASKS, CentreHead

_STRIDES = (1, 2, 4, 8)


class GroundHead(CentreHead):
    """Official names (``head``): ``trunk``, ``neck``, ``shared_conv``, ``task_heads``."""

    def __init__(
        self,
        trunk: dict[str, Any],
        *,
        in_channels: int,
        neck_channels: int,
        channels: int,
        tasks: Sequence[Sequence[int]] = TASKS,
    ) -> None:
        """Builds it.

        Args:
            trunk: An mmdet ResNet of three stages.
            in_channels: Of the map: of both frames together.
            neck_channels: Of each of the neck's four maps.
            channels: Of the centre head's maps in between.
            tasks: Class indices of each group.
        """
        super().__init__(in_channels=4 * neck_channels, channels=channels, tasks=tasks)
        self.trunk = MODELS.build(trunk)
        del self.trunk.maxpool
        base = trunk["base_channels"]
        self.neck = Pyramid(
            in_channels=[in_channels, base, 2 * base, 4 * base], channels=neck_channels, strides=_STRIDES
        )

    def trunk_maps(self, bev_BCHW: Tensor) -> Sequence[Tensor]:
        """The map itself and the trunk's three."""
        x = self.trunk.relu(self.trunk.norm1(self.trunk.conv1(bev_BCHW)))
        maps = [bev_BCHW]
        for name in self.trunk.res_layers:
            x = getattr(self.trunk, name)(x)
            maps.append(x)
        return maps

    def ground(self, bev_BCHW: Tensor) -> Tensor:
        """Features of the ground, as the centre head takes them."""
        out: Tensor = self.neck(self.trunk_maps(bev_BCHW))
        return out
