"""BEVDepth as an mmdet3d detector: images of several cameras, and one past frame of them, to boxes.

Everything on the ground is in the frame of the vehicle; boxes come from and go back into that of the LiDAR.

Shapes: B samples, N cameras, E = B N images, D depths, P pixels, C channels, H W of a map, M objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmdet3d.registry import MODELS
from mmdet3d.structures import Det3DDataSample
from mmengine.structures import InstanceData
from torch import Tensor, nn

from qdbev.detectors.bevdepth.depth_loss import depth_bins, depth_loss
from qdbev.detectors.bevdepth.ground_head import GroundHead
from qdbev.detectors.bevdepth.image_lift import ImageLift, camera_numbers
from qdbev.detectors.bevdepth.moving import moved_boxes
from qdbev.detectors.centre import LENGTH_FIRST, TASKS, Circle, Decoding, task_losses, task_targets
from qdbev.detectors.lift import CameraFrames, Decoded, Encoded, LiftDetector, Lifted, Past, VoxelGrid, pooled

LEAST_OBJECTS = 1e-4  # that the errors of boxes are divided by
CIRCLES = (4.0, 12.0, 10.0, 1.0, 0.85, 0.175)
"""Squared distances of each of nuScenes' tasks."""
PLAIN_CIRCLE = 1.0
"""That of each task where classes are other."""


@MODELS.register_module()
class BEVDepth(LiftDetector):
    """The detector. Build it with ``build_bevdepth``."""

    def __init__(
        self,
        backbone: dict[str, Any],
        head: dict[str, Any],
        *,
        grid: VoxelGrid,
        image_px: tuple[int, int],
        depth_bounds_m: tuple[float, float, float],
        frames_back: int,
        code_weights: Sequence[float],
        depth_weight: float,
        tasks: Sequence[Sequence[int]] = TASKS,
        data_preprocessor: dict[str, Any] | None = None,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        """Builds the parts: arguments of ``ImageLift`` and ``GroundHead``; the others stand in ``build_bevdepth``."""
        super().__init__(data_preprocessor=data_preprocessor, init_cfg=init_cfg)
        self.grid, self.image_px, self.frames_back = grid, image_px, frames_back
        self.code_weights, self.depth_weight = tuple(code_weights), depth_weight
        self.depth_bounds_m = depth_bounds_m
        self.tasks = tuple(map(tuple, tasks))
        circles = CIRCLES if self.tasks == TASKS else (PLAIN_CIRCLE,) * len(self.tasks)
        self.order, self.decoding = LENGTH_FIRST, Decoding(tuple(Circle(squared) for squared in circles))
        self.backbone = ImageLift(**backbone, grid=grid, image_px=image_px)
        self.head = GroundHead(**head, tasks=self.tasks)
        self.history = self.new_history(scenes=16)

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
        return self.backbone.lift(image_ECHW, camera_E27=camera_numbers(frames, sensor2ego_BN44=_sensor2ego(frames)))

    def encode(self, lifted: Lifted, *, frames: CameraFrames, past: Past | None) -> Encoded:
        """Features of the ground."""
        cells_BNDP = self.backbone.cells(frames, sensor2ego_BN44=_sensor2ego(frames))
        bev_BCHW = pooled(lifted, cells_BNDP=cells_BNDP, grid=self.grid)
        if past is not None:
            bev_BCHW = torch.cat([bev_BCHW, self._past_map(past, frames=frames)], 1)
        lidar2grid = frames.bev_B44 @ frames.lidar2ego_B44
        return Encoded(self.head.ground(bev_BCHW), cells_BNDP, lifted, lidar2grid_B44=lidar2grid)

    @torch.no_grad()
    def _past_map(self, past: Past, *, frames: CameraFrames) -> Tensor:
        """The past frame laid down where its cameras were, as the current vehicle sees it; nothing is warped."""
        global2ego = frames.lidar2ego_B44 @ frames.lidar2global_B44.inverse()
        past2ego = (global2ego @ past.lidar2global_B44)[:, None] @ past.cam2lidar_BN44
        cells_BNDP = self.backbone.cells(frames, sensor2ego_BN44=past2ego)
        return pooled(past.lifted, cells_BNDP=cells_BNDP, grid=self.grid)

    def decode(self, encoded: Encoded) -> Decoded:
        """The maps of every task."""
        return Decoded(self.head(encoded.bev_BCHW.float()), lidar2grid_B44=encoded.lidar2grid_B44)

    def boxes(self, decoded: Decoded) -> list[InstanceData]:
        """Boxes of every sample in the LiDAR's frame, best first."""
        found = super().boxes(decoded)
        assert decoded.lidar2grid_B44 is not None
        for instances, lidar2grid_44 in zip(found, decoded.lidar2grid_B44, strict=True):
            instances.bboxes_3d.tensor = moved_boxes(instances.bboxes_3d.tensor, pose_44=lidar2grid_44.inverse())
        return found

    def head_losses(self, decoded: Decoded, *, boxes: list[Tensor], labels: list[Tensor]) -> dict[str, Tensor]:
        """Losses of every task; boxes are turned into the grid's frame."""
        assert decoded.lidar2grid_B44 is not None
        pairs = zip(boxes, decoded.lidar2grid_B44, strict=True)
        return self.grid_losses(decoded, boxes=[moved_boxes(box, pose_44=pose) for box, pose in pairs], labels=labels)

    def grid_losses(self, decoded: Decoded, *, boxes: list[Tensor], labels: list[Tensor]) -> dict[str, Tensor]:
        """The same for boxes in the grid's frame."""
        losses: dict[str, Tensor] = {}
        for number, (maps, classes) in enumerate(zip(decoded.tasks, self.tasks, strict=True)):
            targets = task_targets(boxes, labels, classes=classes, grid=self.centre_grid, order=self.order)
            divisor = maps.code_B10HW.new_tensor(max(len(targets.cell_O), LEAST_OBJECTS))
            loss = task_losses(maps, targets, code_weights=self.code_weights, divisor=divisor)
            of_boxes = torch.stack(list(loss.boxes.values())).sum()
            losses |= {f"task{number}.loss_heatmap": loss.heat, f"task{number}.loss_bbox": of_boxes}
        return losses

    def more_losses(self, encoded: Encoded, data_samples: list[Det3DDataSample]) -> dict[str, Tensor]:
        """The loss of the current frame's depths, where it counts.

        Raises:
            ValueError: A sample has no depths of the LiDAR.
        """
        if not self.depth_weight:
            return {}
        if any("depth_m" not in sample.metainfo for sample in data_samples):
            raise ValueError(
                "a sample has no depths of the LiDAR, which BEVDepth learns from; take a data set with LiDAR files, or "
                "set model.depth.weight=0 to train without them"
            )
        depth = encoded.lifted.depth_EDP
        nearest = torch.cat([torch.as_tensor(sample.metainfo["depth_m"]) for sample in data_samples]).to(depth.device)
        first, _, step = self.depth_bounds_m
        bins = depth_bins(nearest.flatten(1), first_m=first, step_m=step, depths=depth.shape[1])
        return {"loss_depth": self.depth_weight * depth_loss(depth, bins_EP=bins)}

    def parts(self) -> dict[str, list[str]]:
        """The paper's four parts as paths of modules, together everything."""
        return {
            "backbone": ["backbone.img_backbone"],
            "neck": ["backbone.img_neck"],
            "encoder": ["backbone.depth_net", "head.trunk", "head.neck"],
            "decoder": ["head.shared_conv", "head.task_heads"],
        }

    def image_paths(self) -> tuple[str, ...]:
        """Backbone, neck and depth network."""
        return ("backbone",)

    def head_layers(self) -> list[nn.Module]:
        """The convolutions that maps come out of."""
        return self.head.last_layers()


def _sensor2ego(frames: CameraFrames) -> Tensor:
    return frames.lidar2ego_B44[:, None] @ frames.cam2lidar_BN44
