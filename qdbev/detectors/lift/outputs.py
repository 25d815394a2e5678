"""What encoder and head of a detector that lifts images give.

Shapes: B samples, N cameras, D depths, P pixels, C channels, H W of the map.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qdbev.detectors.centre import TaskMaps
from qdbev.detectors.lift.lifted import Lifted


@dataclass(frozen=True)
class Encoded:
    """What the encoder gives.

    Attributes:
        bev_BCHW: Features of the ground.
        cells_BNDP: Cell of every point of the current frustums.
        lifted: What the next frames need of this one.
        gap_s_B: Seconds to the past frame, where velocities are displacements over it.
        lidar2grid_B44: LiDAR metres to those of the grid, where these differ.
    """

    bev_BCHW: Tensor
    cells_BNDP: Tensor
    lifted: Lifted
    gap_s_B: Tensor | None = None
    lidar2grid_B44: Tensor | None = None


@dataclass(frozen=True)
class Decoded:
    """What the head gives.

    Attributes:
        tasks: The maps of every task.
        gap_s_B: Where it is there, velocities are displacements over these seconds.
        lidar2grid_B44: LiDAR metres to those of the grid, where these differ.
    """

    tasks: list[TaskMaps]
    gap_s_B: Tensor | None = None
    lidar2grid_B44: Tensor | None = None

    def per_second(self) -> list[TaskMaps]:
        """The same maps with velocities."""
        if self.gap_s_B is None:
            return self.tasks
        gap = self.gap_s_B[:, None, None, None].float()
        return [
            TaskMaps(maps.heat_BCHW, torch.cat([maps.code_B10HW[:, :8], maps.code_B10HW[:, 8:] / gap], 1))
            for maps in self.tasks
        ]
