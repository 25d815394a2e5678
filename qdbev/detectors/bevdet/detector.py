"""BEVDet and BEVDet4D as an mmdet3d detector: images of several cameras, and one past frame of them, to boxes.

Shapes: B samples, C channels, H W of a map.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmdet3d.registry import MODELS
from torch import Tensor, nn

from qdbev.detectors.bevdet.frame_graph import BEVDetGraph
from qdbev.detectors.bevdet.network import BEVDetNetwork
from qdbev.detectors.centre import TASKS, WIDTH_FIRST, Circle, Decoding, Rotated, task_losses, task_targets
from qdbev.detectors.detector import Scene
from qdbev.detectors.lift import Decoded

FEW = 1e-4  # added to the number of objects of a task before it divides
SCALE_NMS = (
    Rotated(0.2),
    Rotated(0.2, (0.7, 0.7)),
    Rotated(0.2, (0.4, 0.55)),
    Circle(1.0),
    Rotated(0.2, (1.0, 1.0)),
    Rotated(0.5, (4.5, 9.0)),
)
"""Of each of nuScenes' tasks. Things that are small from above are enlarged before they are compared."""
PLAIN_NMS = Rotated(0.2)
"""Of each task where classes are other."""


@MODELS.register_module()
class BEVDet(BEVDetNetwork):
    """The detector. Build it with ``build_bevdet``."""

    def __init__(self, *args: Any, code_weights: Sequence[float], **options: Any) -> None:
        """Builds the parts; the arguments are explained in ``build_bevdet``."""
        super().__init__(*args, **options)
        self.code_weights = tuple(code_weights)
        suppression = SCALE_NMS if self.tasks == TASKS else (PLAIN_NMS,) * len(self.tasks)
        self.order, self.decoding = WIDTH_FIRST, Decoding(suppression)
        self.history = self.new_history(scenes=16)

    def head_losses(self, decoded: Decoded, *, boxes: list[Tensor], labels: list[Tensor]) -> dict[str, Tensor]:
        """Losses of every task by official name; velocities are compared as displacements over the gap."""
        if decoded.gap_s_B is not None:
            moved = [gap.float() for gap in decoded.gap_s_B]
            boxes = [torch.cat([box[:, :7], box[:, 7:] * gap], 1) for box, gap in zip(boxes, moved, strict=True)]
        losses: dict[str, Tensor] = {}
        for number, (maps, classes) in enumerate(zip(decoded.tasks, self.tasks, strict=True)):
            targets = task_targets(boxes, labels, classes=classes, grid=self.centre_grid, order=self.order)
            divisor = maps.code_B10HW.new_tensor(len(targets.cell_O) + FEW)
            loss = task_losses(maps, targets, code_weights=self.code_weights, divisor=divisor)
            named = {f"loss_{name}": value for name, value in loss.boxes.items()} | {"loss_heatmap": loss.heat}
            losses |= {f"task{number}.{name}": value for name, value in named.items()}
        return losses

    def frame_graph(self, scene: Scene) -> BEVDetGraph:
        """See ``Detector``."""
        return BEVDetGraph(self, scene)

    def parts(self) -> dict[str, list[str]]:
        """The paper's four parts as paths of modules, together everything."""
        encoder = ["img_view_transformer", *(["pre_process_net"] if self.temporal else [])]
        return {
            "backbone": ["img_backbone"],
            "neck": ["img_neck"],
            "encoder": [*encoder, "img_bev_encoder_backbone", "img_bev_encoder_neck"],
            "decoder": ["pts_bbox_head"],
        }

    def image_paths(self) -> tuple[str, ...]:
        """Backbone, neck and the depth convolution."""
        return ("img_backbone", "img_neck", "img_view_transformer")

    def head_layers(self) -> list[nn.Module]:
        """The convolutions that maps come out of."""
        return self.pts_bbox_head.last_layers()
