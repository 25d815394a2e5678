"""BEVDet's network: its parts by name, and the stages from images to the maps of its head.

Shapes: B samples, N cameras, E = B N images, C channels, H W of a map.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmdet3d.registry import MODELS
from torch import Tensor

from qdbev.detectors.bevdet.bev_encoder import BevNeck, BevStages
from qdbev.detectors.bevdet.view_transformer import ViewTransformer
from qdbev.detectors.bevdet.warping import now_to, warped
from qdbev.detectors.centre import TASKS, CentreHead
from qdbev.detectors.lift import CameraFrames, Decoded, Encoded, LiftDetector, Lifted, Past, VoxelGrid, gap_s, pooled

HEAT_BIAS = -2.19  # sigmoid of it is 0.1


class BEVDetNetwork(LiftDetector):
    """Backbone, neck, view transformer, encoder of the ground and head; names as in the official checkpoints."""

    def __init__(
        self,
        img_backbone: dict[str, Any],
        img_neck: dict[str, Any],
        *,
        image_px: tuple[int, int],
        stride: int,
        depths_m: Sequence[float],
        grid: VoxelGrid,
        channels: int,
        bev_channels: Sequence[int],
        neck_channels: int,
        head_channels: int,
        frames_back: int,
        tasks: Sequence[Sequence[int]] = TASKS,
        data_preprocessor: dict[str, Any] | None = None,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        """Builds the parts; the arguments are explained in ``build_bevdet``."""
        super().__init__(data_preprocessor=data_preprocessor, init_cfg=init_cfg)
        self.grid, self.image_px, self.frames_back = grid, image_px, frames_back
        self.tasks = tuple(map(tuple, tasks))
        self.img_backbone = MODELS.build(img_backbone)
        self.img_neck = MODELS.build(img_neck)
        self.img_view_transformer = ViewTransformer(
            in_channels=img_neck["out_channels"],
            channels=channels,
            grid=grid,
            image_px=image_px,
            stride=stride,
            depths_m=depths_m,
        )
        if self.temporal:
            self.pre_process_net = BevStages(in_channels=channels, channels=[channels], strides=[1])
        self.img_bev_encoder_backbone = BevStages(
            in_channels=channels * (1 + self.temporal), channels=bev_channels, strides=[2] * len(bev_channels)
        )
        self.img_bev_encoder_neck = BevNeck(in_channels=bev_channels[0] + bev_channels[-1], channels=neck_channels)
        self.pts_bbox_head = CentreHead(
            in_channels=neck_channels, channels=head_channels, tasks=self.tasks, heat_bias=HEAT_BIAS
        )

    def backbone_features(self, img_BNCHW: Tensor) -> tuple[Tensor, ...]:
        """Backbone maps of all images, each (E, C, H, W)."""
        return tuple(self.img_backbone(img_BNCHW.flatten(0, 1).contiguous(memory_format=torch.channels_last)))

    def neck_features(self, backbone_maps: Sequence[Tensor]) -> Tensor:
        """The neck's map (E, C, H, W)."""
        out: Tensor = self.img_neck(tuple(backbone_maps))
        return out

    def lift(self, image_ECHW: Tensor, *, frames: CameraFrames) -> Lifted:
        """Depths and features of every pixel of the neck's map."""
        return self.img_view_transformer.lift(image_ECHW)

    def encode(self, lifted: Lifted, *, frames: CameraFrames, past: Past | None) -> Encoded:
        """Features of the ground.

        Args:
            lifted: Of the current frame.
            frames: Its cameras.
            past: The frame that it is compared with, for a temporal detector.
        """
        cells_BNDP = self.img_view_transformer.cells(frames)
        bev_BCHW = pooled(lifted, cells_BNDP=cells_BNDP, grid=self.grid)
        if past is not None:
            bev_BCHW = self.pre_process_net(bev_BCHW)[0]
            bev_BCHW = torch.cat([bev_BCHW, self._past_map(past, frames=frames, cells_BNDP=cells_BNDP)], 1)
        gap = None if past is None else gap_s(past, frames=frames, frames_back=self.frames_back)
        return Encoded(self.ground(bev_BCHW), cells_BNDP, lifted, gap)

    def ground(self, bev_BCHW: Tensor) -> Tensor:
        """Features of the ground of the map, or of both maps, of what lies in every cell."""
        out: Tensor = self.img_bev_encoder_neck(self.img_bev_encoder_backbone(bev_BCHW))
        return out

    def decode(self, encoded: Encoded) -> Decoded:
        """The maps of every task."""
        return Decoded(self.pts_bbox_head(encoded.bev_BCHW), encoded.gap_s_B)

    @torch.no_grad()
    def _past_map(self, past: Past, *, frames: CameraFrames, cells_BNDP: Tensor) -> Tensor:
        """The past frame's map under the current vehicle; pooled into the CURRENT cells, as in the official code."""
        bev_BCHW = self.pre_process_net(pooled(past.lifted, cells_BNDP=cells_BNDP, grid=self.grid))[0]
        return warped(bev_BCHW, now2past_B44=now_to(past.lidar2global_B44, frames=frames), grid=self.grid)
