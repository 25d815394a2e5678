"""PETR (arXiv 2203.05625) as an mmdet3d detector: images of a frame's cameras to boxes."""

from __future__ import annotations

from mmdet3d.registry import MODELS
from mmdet3d.structures import Det3DDataSample
from torch import Tensor

from qdbev.detectors.petr.frame_graph import PETRGraph
from qdbev.detectors.petr.head import PETRHead
from qdbev.detectors.queries.decoded import Decoded, losses
from qdbev.detectors.queries.detector import QueryDetector

_HEAD = "pts_bbox_head"


@MODELS.register_module()
class PETR(QueryDetector):
    """The detector. Build it with ``build_petr``, or from the registry with the three dicts that it makes."""

    graph_type = PETRGraph
    pts_bbox_head: PETRHead

    def losses(self, decoded: Decoded, data_samples: list[Det3DDataSample]) -> dict[str, Tensor]:
        """Detection losses of every decoder layer; the class loss counts matches of this process alone."""
        return losses(
            decoded,
            data_samples,
            code_weights_10=self.pts_bbox_head.code_weights,
            motion_weight=self.motion_weight,
            as_petr=True,
        )

    def parts(self) -> dict[str, list[str]]:
        """The paper's four parts; the encoder is what gives cells and queries their positions."""
        encoder = ("input_proj", "position_encoder", "adapt_pos3d", "query_embedding")
        decoder = ("transformer", "reference_points", "cls_branches", "reg_branches", "code_weights")
        return {
            "backbone": ["img_backbone"],
            "neck": ["img_neck"],
            "encoder": [f"{_HEAD}.{name}" for name in encoder],
            "decoder": [f"{_HEAD}.{name}" for name in decoder],
        }

    def first_positions(self) -> tuple[str, ...]:
        """Path of the table of anchors."""
        return (f"{_HEAD}.reference_points",)

    def output_layers(self) -> list[str]:
        """Paths of the last linear layers of the branches, which all decoder layers share."""
        return [f"{_HEAD}.cls_branches.0.6", f"{_HEAD}.reg_branches.0.4"]
