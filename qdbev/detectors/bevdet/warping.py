"""The past map of the ground as it lies under the current vehicle, BEVDet4D (arXiv 2203.17054) section 3.2.

Shapes: B samples, C channels, H W of the map.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from qdbev.detectors.lift import VoxelGrid

_PLANE = [0, 1, 3]  # rows and columns x, y and 1 of a pose


def warped(past_BCHW: Tensor, *, now2past_B44: Tensor, grid: VoxelGrid) -> Tensor:
    """The past map, sampled bilinearly where each current cell was then; zeros from outside.

    As in the official code a cell's index stands for its lower corner, not for its middle: the map turns about a point
    half a cell off.

    Args:
        past_BCHW: In the past LiDAR's frame.
        now2past_B44: Metres of the current frame to those of the past one; height is left out.
        grid: The map's cells.
    """
    cell = now2past_B44.new_tensor([[grid.cell_m[0], 0, grid.low_m[0]], [0, grid.cell_m[1], grid.low_m[1]], [0, 0, 1]])
    between_B33 = cell.inverse() @ now2past_B44[:, _PLANE][:, :, _PLANE] @ cell
    x = torch.arange(grid.columns, device=cell.device, dtype=cell.dtype).expand(grid.rows, grid.columns)
    y = torch.arange(grid.rows, device=cell.device, dtype=cell.dtype)[:, None].expand(grid.rows, grid.columns)
    here_Q3 = torch.stack([x, y, torch.ones_like(x)], -1).flatten(0, 1)
    there_BQ2 = (here_Q3 @ between_B33.transpose(-1, -2))[..., :2]
    unit = there_BQ2 / there_BQ2.new_tensor([grid.columns - 1, grid.rows - 1]) * 2 - 1
    precise = torch.promote_types(past_BCHW.dtype, torch.float32)
    places = unit.view(-1, grid.rows, grid.columns, 2).to(precise)
    sampled = F.grid_sample(past_BCHW.to(precise), places, mode="bilinear", padding_mode="zeros", align_corners=True)
    return sampled.to(past_BCHW.dtype)
