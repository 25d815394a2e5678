"""BEVDepth's network: its parts by name, and the stages from images to the maps of its head.

Everything on the ground is in the frame of the vehicle; boxes come out of it into that of the LiDAR.

Shapes: B samples, N cameras, E = B N images, D depths, P pixels, C channels, H W of a map.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.structures import InstanceData
from torch import Tensor

from qdbev.detectors.bevdepth.ground_head import GroundHead
from qdbev.detectors.bevdepth.image_lift import ImageLift, camera_numbers
from qdbev.detectors.bevdepth.moving import moved_boxes
from qdbev.detectors.centre import LENGTH_FIRST, TASKS, Decoding, circles_of
from qdbev.detectors.lift import CameraFrames, Decoded, Encoded, LiftDetector, Lifted, Past, VoxelGrid, pooled


class BEVDepthNetwork(LiftDetector):
    """Backbone, neck, depth network and the head on the ground; names as in the official checkpoints."""

    def __init__(
        self,
        backbone: dict[str, Any],
        head: dict[str, Any],
        *,
        grid: VoxelGrid,
        image_px: tuple[int, int],
        frames_back: int,
        tasks: Sequence[Sequence[int]] = TASKS,
        data_preprocessor: dict[str, Any] | None = None,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        """Builds the parts: arguments of ``ImageLift`` and ``GroundHead``; others are those of ``build_bevdepth``."""
        super().__init__(data_preprocessor=data_preprocessor, init_cfg=init_cfg)
        self.grid, self.image_px, self.frames_back = grid, image_px, frames_back
        self.tasks = tuple(map(tuple, tasks))
        self.order, self.decoding = LENGTH_FIRST, Decoding(circles_of(self.tasks))
        self.backbone = ImageLift(**backbone, grid=grid, image_px=image_px)
        self.head = GroundHead(**head, tasks=self.tasks)

    def backbone_features(self, img_BNCHW: Tensor) -> tuple[Tensor, ...]:
        """Backbone maps of all images, each (E, C, H, W)."""
        images = img_BNCHW.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        return tuple(self.backbone.img_backbone(images))

    def neck_features(self, backbone_maps: Sequence[Tensor]) -> Tensor:
        """The neck's map (E, C, H, W)."""
        out: Tensor = self.backbone.img_neck(tuple(backbone_maps))
        return out

    def lift(self, image_ECHW: Tensor, *, frames: CameraFrames) -> Lifted:
        """Depths and features of every pixel; past images too are told the CURRENT cameras, as in the official code."""
        return self.backbone.lift(image_ECHW, camera_E27=camera_numbers(frames, sensor2ego_BN44=sensor_to_ego(frames)))

    def encode(self, lifted: Lifted, *, frames: CameraFrames, past: Past | None) -> Encoded:
        """Features of the ground."""
        cells_BNDP = self.backbone.cells(frames, sensor2ego_BN44=sensor_to_ego(frames))
        bev_BCHW = pooled(lifted, cells_BNDP=cells_BNDP, grid=self.grid)
        if past is not None:
            bev_BCHW = torch.cat([bev_BCHW, self._past_map(past, frames=frames)], 1)
        return Encoded(self.head.ground(bev_BCHW), cells_BNDP, lifted, lidar2grid_B44=lidar_to_grid(frames))

    @torch.no_grad()
    def _past_map(self, past: Past, *, frames: CameraFrames) -> Tensor:
        """The past frame laid down where its cameras were, as the current vehicle sees it; nothing is warped."""
        cells_BNDP = self.past_cells(past.lidar2global_B44, past.cam2lidar_BN44, frames=frames)
        return pooled(past.lifted, cells_BNDP=cells_BNDP, grid=self.grid)

    def past_cells(self, lidar2global_B44: Tensor, cam2lidar_BN44: Tensor, *, frames: CameraFrames) -> Tensor:
        """The cell of every point (B, N, D, P) of past cameras, of which pose and places are given."""
        global2ego = frames.lidar2ego_B44 @ frames.lidar2global_B44.inverse()
        past2ego = (global2ego @ lidar2global_B44)[:, None] @ cam2lidar_BN44
        return self.backbone.cells(frames, sensor2ego_BN44=past2ego)

    def decode(self, encoded: Encoded) -> Decoded:
        """The maps of every task."""
        return Decoded(self.head(encoded.bev_BCHW.float()), lidar2grid_B44=encoded.lidar2grid_B44)

    def boxes(self, decoded: Decoded) -> list[InstanceData]:
        """Boxes of every sample in the LiDAR's frame, best first."""
        assert decoded.lidar2grid_B44 is not None
        return in_lidar(super().boxes(decoded), lidar2grid_B44=decoded.lidar2grid_B44)


def in_lidar(found: list[InstanceData], *, lidar2grid_B44: Tensor) -> list[InstanceData]:
    """Boxes of every sample of the grid's frame in that of the LiDAR, in place."""
    for instances, lidar2grid_44 in zip(found, lidar2grid_B44, strict=True):
        instances.bboxes_3d.tensor = moved_boxes(instances.bboxes_3d.tensor, pose_44=lidar2grid_44.inverse())
    return found


def sensor_to_ego(frames: CameraFrames) -> Tensor:
    """(B, N, 4, 4) metres of every camera to those of the vehicle."""
    return frames.lidar2ego_B44[:, None] @ frames.cam2lidar_BN44


def lidar_to_grid(frames: CameraFrames) -> Tensor:
    """(B, 4, 4) metres of the LiDAR to those of the ground, as it is augmented."""
    return frames.bev_B44 @ frames.lidar2ego_B44
