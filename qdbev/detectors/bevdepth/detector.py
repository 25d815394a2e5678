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
from torch import Tensor, nn

from qdbev.detectors.bevdepth.depth_loss import depth_bins, depth_loss
from qdbev.detectors.bevdepth.frame_graph import BEVDepthGraph
from qdbev.detectors.bevdepth.moving import moved_boxes
from qdbev.detectors.bevdepth.network import BEVDepthNetwork
from qdbev.detectors.centre import task_losses, task_targets
from qdbev.detectors.detector import Scene
from qdbev.detectors.lift import Decoded, Encoded

LEAST_OBJECTS = 1e-4  # that the errors of boxes are divided by


@MODELS.register_module()
class BEVDepth(BEVDepthNetwork):
    """The detector. Build it with ``build_bevdepth``."""

    def __init__(
        self,
        *parts: dict[str, Any],
        depth_bounds_m: tuple[float, float, float],
        code_weights: Sequence[float],
        depth_weight: float,
        **options: Any,
    ) -> None:
        """Builds the parts; the arguments are explained in ``build_bevdepth``."""
        super().__init__(*parts, **options)
        self.depth_bounds_m = depth_bounds_m
        self.code_weights, self.depth_weight = tuple(code_weights), depth_weight
        self.history = self.new_history(scenes=16)

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

    def frame_graph(self, scene: Scene) -> BEVDepthGraph:
        """See ``Detector``."""
        return BEVDepthGraph(self, scene)

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
