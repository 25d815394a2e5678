"""BEVDepth's images as far as the ground: backbone, neck, depth network, cells, in the vehicle's frame.

Shapes: B samples, N cameras, E = B N images, D depths, P pixels, C channels, H W of a map.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmdet3d.registry import MODELS
from torch import Tensor, nn

from qdbev.detectors.bevdepth.depth_net import DepthNet
from qdbev.detectors.bevdepth.pyramid import Pyramid
from qdbev.detectors.images.projection import without_autocast
from qdbev.detectors.lift import CameraFrames, Lifted, VoxelGrid, cells_of, depth_probabilities, frustum, times_depth

_TOLERANCE = 0.01  # of a constant in a checkpoint; half precision keeps three digits
_STRIDES = (0.25, 0.5, 1, 2)


class ImageLift(nn.Module):
    """Official names (``backbone``); grid and frustum are constants that the state dict holds as well."""

    points_DHW3: Tensor

    def __init__(
        self,
        img_backbone: dict[str, Any],
        *,
        in_channels: Sequence[int],
        neck_channels: int,
        width: int,
        channels: int,
        groups: int,
        grid: VoxelGrid,
        image_px: tuple[int, int],
        stride: int,
        depths_m: Sequence[float],
    ) -> None:
        """Builds it; the arguments are explained in ``build_bevdepth``."""
        super().__init__()
        self.grid, self.depths = grid, len(depths_m)
        self.img_backbone = MODELS.build(img_backbone)
        self.img_neck = Pyramid(in_channels=in_channels, channels=neck_channels, strides=_STRIDES)
        self.depth_net = DepthNet(
            in_channels=4 * neck_channels, width=width, channels=channels, depths=self.depths, groups=groups
        )
        points = frustum(image_px=image_px, stride=stride, depths_m=depths_m)
        middles = [low + size / 2 for low, size in zip(grid.low_m, grid.cell_m, strict=True)]
        self.register_buffer("voxel_size", torch.tensor(grid.cell_m))
        self.register_buffer("voxel_coord", torch.tensor(middles))
        self.register_buffer("voxel_num", torch.tensor([grid.columns, grid.rows, 1]))
        self.register_buffer("frustum", torch.cat([points, torch.ones_like(points[..., :1])], -1))
        self.register_buffer("points_DHW3", points.clone(), persistent=False)

    def lift(self, image_ECHW: Tensor, *, camera_E27: Tensor) -> Lifted:
        """Depth probabilities and features of every pixel of the neck's map."""
        depth, context = self.depth_net(image_ECHW, camera_E27=camera_E27)
        return Lifted(depth_probabilities(depth), context.flatten(2).transpose(1, 2))

    def cells(self, frames: CameraFrames, *, sensor2ego_BN44: Tensor) -> Tensor:
        """The cell of every point, (B, N, D, P), in the official code's precision and order.

        Args:
            frames: The current ones: their images' matrices and the ground's augmentation.
            sensor2ego_BN44: Cameras of the frame that is laid down, in the CURRENT vehicle's frame.
        """
        image, taken = frames.image_BN44.float(), frames.cam2img_BN44.float()
        with without_autocast(image.device):
            flat = self.points_DHW3.flatten(0, 2)
            flat = torch.cat([flat, torch.ones_like(flat[:, :1])], -1)
            rays = times_depth(_moved(flat, image.inverse()))
            places = _moved(_moved(rays, sensor2ego_BN44.float() @ taken.inverse()), frames.bev_B44[:, None].float())
            cells = cells_of(places[..., :3], grid=self.grid)
        return cells.unflatten(-1, (self.depths, -1))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """As torch's; constants of another grid, image or depth are an error: nothing would compute with them."""
        for name in ("voxel_size", "voxel_coord", "voxel_num", "frustum"):
            stated, own = state_dict.get(f"{prefix}{name}"), getattr(self, name)
            if stated is None or own.is_meta or stated.shape != own.shape:
                continue
            near = torch.isclose(stated.detach().float().cpu(), own.detach().float().cpu(), _TOLERANCE, _TOLERANCE)
            if not near.all():
                args[-1].append(f"{prefix}{name} is of another grid, image size or range of depths than this detector")
        super()._load_from_state_dict(state_dict, prefix, *args)


def _moved(points_X4: Tensor, matrix_BN44: Tensor) -> Tensor:
    """(B, N, X, 4), one product per point: together they would round otherwise."""
    moved: Tensor = (matrix_BN44[..., None, :, :] @ points_X4[..., None])[..., 0]
    return moved


def camera_numbers(frames: CameraFrames, *, sensor2ego_BN44: Tensor) -> Tensor:
    """(E, 27) what is told of a camera: 4 numbers of its lens, 6 of its image, 5 of the ground, 12 of its place."""
    taken, image = frames.cam2img_BN44, frames.image_BN44
    ground = frames.bev_B44[:, None].expand_as(image)
    numbers = [
        *(taken[..., row, column] for row, column in ((0, 0), (1, 1), (0, 2), (1, 2))),
        *(image[..., row, column] for row in (0, 1) for column in (0, 1, 3)),
        *(ground[..., row, column] for row, column in ((0, 0), (0, 1), (1, 0), (1, 1), (2, 2))),
    ]
    place = sensor2ego_BN44[..., :3, :].flatten(-2)
    return torch.cat([torch.stack(numbers, -1), place], -1).flatten(0, 1).float()
