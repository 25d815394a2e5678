"""The past map of the ground as it lies under the current vehicle, BEVDet4D (arXiv 2203.17054) section 3.2.

Shapes: B samples, C channels, H W of the map.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from qdbev.detectors.lift import CameraFrames, VoxelGrid

_PLANE = [0, 1, 3]  # rows and columns x, y and 1 of a pose


def now_to(past2global_B44: Tensor, *, frames: CameraFrames) -> Tensor:
    """Metres of the current frame, as the ground is augmented, to those of the past one whose pose is given."""
    now2past = past2global_B44.inverse() @ frames.lidar2global_B44
    return frames.bev_B44 @ now2past @ frames.bev_B44.inverse()


def warped(past_BCHW: Tensor, *, now2past_B44: Tensor, grid: VoxelGrid) -> Tensor:
    """The past map, sampled bilinearly where each current cell was then; zeros from outside.

    Args:
        past_BCHW: In the past LiDAR's frame.
        now2past_B44: Metres of the current frame to those of the past one; height is left out.
        grid: The map's cells.
    """
    return sampled(past_BCHW, places_BHW2=places_then(now2past_B44, grid=grid))


def places_then(now2past_B44: Tensor, *, grid: VoxelGrid) -> Tensor:
    """Where every cell lay in the past map, (B, H, W, 2): x and y as ``grid_sample`` counts them.

    As in the official code a cell's index stands for its lower corner, not for its middle: the map turns about a point
    half a cell off. See ``warped``.
    """
    cell = now2past_B44.new_tensor([[grid.cell_m[0], 0, grid.low_m[0]], [0, grid.cell_m[1], grid.low_m[1]], [0, 0, 1]])
    between_B33 = cell.inverse() @ now2past_B44[:, _PLANE][:, :, _PLANE] @ cell
    x = torch.arange(grid.columns, device=cell.device, dtype=cell.dtype).expand(grid.rows, grid.columns)
    y = torch.arange(grid.rows, device=cell.device, dtype=cell.dtype)[:, None].expand(grid.rows, grid.columns)
    here_Q3 = torch.stack([x, y, torch.ones_like(x)], -1).flatten(0, 1)
    there_BQ2 = (here_Q3 @ between_B33.transpose(-1, -2))[..., :2]
    unit = there_BQ2 / there_BQ2.new_tensor([grid.columns - 1, grid.rows - 1]) * 2 - 1
    return unit.view(-1, grid.rows, grid.columns, 2)


def sampled(past_BCHW: Tensor, *, places_BHW2: Tensor) -> Tensor:
    """The past map, read bilinearly at the places that ``places_then`` gives; zeros from outside."""
    precise = torch.promote_types(past_BCHW.dtype, torch.float32)
    there = F.grid_sample(
        past_BCHW.to(precise), places_BHW2.to(precise), mode="bilinear", padding_mode="zeros", align_corners=True
    )
    return there.to(past_BCHW.dtype)
