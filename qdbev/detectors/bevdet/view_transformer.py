"""BEVDet's view transformer: one convolution gives depths and features, frustum pooling lays them onto the ground.

The official code keeps the grid and the frustum among its parameters. They are here for their names alone: what is
computed with are constants of this file, which no packing to half precision moves.

Shapes: E images, D depths, P pixels, C channels, H W of a feature map.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from qdbev.detectors.images.projection import without_autocast
from qdbev.detectors.lift import CameraFrames, Lifted, VoxelGrid, cells_of, depth_probabilities, frustum, times_depth

_TOLERANCE = 0.01  # of a constant in a checkpoint, relative; half precision keeps three digits


class ViewTransformer(nn.Module):
    """Depths and features of every pixel, and the cells that they belong to."""

    points_DHW3: Tensor

    def __init__(
        self,
        *,
        in_channels: int,
        channels: int,
        grid: VoxelGrid,
        image_px: tuple[int, int],
        stride: int,
        depths_m: Sequence[float],
    ) -> None:
        """Builds it.

        Args:
            in_channels: Of the neck's map.
            channels: Features of a pixel.
            grid: The ground's cells.
            image_px: Height and width of the network's input.
            stride: Pixels of it per pixel of the neck's map.
            depths_m: Depths.
        """
        super().__init__()
        self.grid, self.depths, self.image_px = grid, len(depths_m), tuple(image_px)
        points = frustum(image_px=image_px, stride=stride, depths_m=depths_m)
        counts = (grid.columns, grid.rows, 1)
        self.dx = _constant(grid.cell_m)
        self.bx = _constant([low + size / 2 for low, size in zip(grid.low_m, grid.cell_m, strict=True)])
        self.nx = _constant(counts)
        self.frustum = _constant(points)
        self.register_buffer("points_DHW3", points, persistent=False)
        self.depthnet = nn.Conv2d(in_channels, self.depths + channels, 1)

    def lift(self, image_ECHW: Tensor) -> Lifted:
        """Depth probabilities and features of every pixel of the neck's map."""
        both = self.depthnet(image_ECHW)
        depth = depth_probabilities(both[:, : self.depths])
        return Lifted(depth, both[:, self.depths :].flatten(2).transpose(1, 2))

    def cells(self, frames: CameraFrames) -> Tensor:
        """The cell of every point, (B, N, D, P), seen by the frame's cameras.

        In single precision and the official code's order, so that points on borders fall as they do there.
        """
        turn, shift = frames.image_BN44[..., :2, :2], frames.image_BN44[..., None, :2, 3].float()
        place = (frames.bev_B44[:, None] @ frames.cam2lidar_BN44).float()
        with without_autocast(place.device):
            flat = self.points_DHW3.flatten(0, 2).expand(*turn.shape[:2], -1, 3)
            pixels = (flat[..., :2] - shift) @ turn.float().inverse().transpose(-1, -2)
            rays = place[..., :3, :3] @ frames.cam2img_BN44[..., :3, :3].float().inverse()
            points = times_depth(torch.cat([pixels, flat[..., 2:]], -1)) @ rays.transpose(-1, -2)
            cells = cells_of(points + place[..., None, :3, 3], grid=self.grid)
        return cells.unflatten(-1, (self.depths, -1))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """As torch's; constants of another grid, image or depth are an error: nothing would compute with them."""
        for name in ("dx", "bx", "nx", "frustum"):
            stated, own = state_dict.get(f"{prefix}{name}"), getattr(self, name)
            if stated is None or own.is_meta or stated.shape != own.shape:
                continue
            if not torch.allclose(stated.detach().float().cpu(), own.detach().cpu(), rtol=_TOLERANCE, atol=_TOLERANCE):
                args[-1].append(f"{prefix}{name} is of another grid, image size or range of depths than this detector")
        super()._load_from_state_dict(state_dict, prefix, *args)


def _constant(values: Any) -> nn.Parameter:
    return nn.Parameter(torch.as_tensor(values, dtype=torch.float32).clone(), requires_grad=False)
