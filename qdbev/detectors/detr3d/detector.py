"""DETR3D (arXiv 2110.06922) as an mmdet3d detector: images of a frame's cameras to boxes."""

from __future__ import annotations

from fractions import Fraction

from mmdet3d.registry import MODELS
from torch import nn

from qdbev.detectors.detector import Scene
from qdbev.detectors.detr3d.head import DETR3DHead
from qdbev.detectors.queries.detector import QueryDetector


@MODELS.register_module()
class DETR3D(QueryDetector):
    """The detector. Build it with ``build_detr3d``, or from the registry with the three dicts that it makes."""

    pts_bbox_head: DETR3DHead

    def parts(self) -> dict[str, list[str]]:
        """The paper's four parts; DETR3D has no encoder."""
        return {"backbone": ["img_backbone"], "neck": ["img_neck"], "encoder": [], "decoder": ["pts_bbox_head"]}

    def first_positions(self) -> tuple[str, ...]:
        """Paths of the table of object queries and of the layer that turns it into their first positions."""
        return ("pts_bbox_head.query_embedding", "pts_bbox_head.transformer.reference_points")

    def output_layers(self) -> list[str]:
        """Paths of the last linear layers of the last decoder layer's branches: classification and regression."""
        last = len(self.pts_bbox_head.cls_branches) - 1
        return [f"pts_bbox_head.{name}.{last}.{place}" for name, place in (("cls_branches", 6), ("reg_branches", 4))]

    def official_repeats(self, scene: Scene) -> dict[str, Fraction]:
        """The official code runs each regression branch twice on the same input, decoder and head."""
        twice = [
            path for path, layer in self.named_modules() if ".reg_branches." in path and isinstance(layer, nn.Linear)
        ]
        return dict.fromkeys(twice, Fraction(2))
