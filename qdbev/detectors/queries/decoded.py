"""What a decoder of object queries gives, and what follows of it: metric box codes, boxes, losses.

Shapes: B samples, K object queries, C classes, L decoder layers, E channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from mmdet3d.structures import Det3DDataSample
from mmengine.structures import InstanceData
from torch import Tensor

from qdbev.detectors.boxes.box_code import encode_boxes, metric_centre, top_boxes
from qdbev.detectors.boxes.loss import detection_losses
from qdbev.detectors.images.batches import ground_truth

CENTRE_RANGE_M = (-61.2, -61.2, -10.0, 61.2, 61.2, 10.0)
"""Official detectors drop boxes whose centre is outside."""


@dataclass(frozen=True)
class Decoded:
    """What the decoder gives for each of its layers: class logits (L, B, K, C) and metric box codes (L, B, K, 10).

    Of detectors without a bird's-eye view also the features of the last layer's queries (B, K, E).
    """

    logits_LBKC: Tensor
    code_LBK10: Tensor
    states_BKE: Tensor | None = None


def metric(code_LBK10: Tensor, *, pc_range: tuple[float, ...]) -> Tensor:
    """Box codes whose centre is in fractions of the range, with the centre in metres."""
    code = code_LBK10
    centre = metric_centre(code[..., [0, 1, 4]], pc_range=pc_range)
    return torch.cat([centre[..., :2], code[..., 2:4], centre[..., 2:], code[..., 5:]], -1)


def losses(
    decoded: Decoded,
    data_samples: list[Det3DDataSample],
    *,
    code_weights_10: Tensor,
    motion_weight: float = 0.0,
    as_petr: bool = False,
) -> dict[str, Tensor]:
    """Detection losses of every decoder layer, by official name; see ``detection_losses``."""
    boxes, labels = ground_truth(data_samples, device=decoded.logits_LBKC.device)
    return detection_losses(
        decoded.logits_LBKC,
        decoded.code_LBK10,
        labels=labels,
        targets=[encode_boxes(boxes_M9) for boxes_M9 in boxes],
        code_weights_10=code_weights_10,
        motion_weight=motion_weight,
        as_petr=as_petr,
    )


def last_boxes(decoded: Decoded, *, max_boxes: int, centre_range: tuple[float, ...]) -> list[InstanceData]:
    """Boxes of the last decoder layer, best first, one ``InstanceData`` per sample."""
    results = []
    for logits_KC, code_K10 in zip(decoded.logits_LBKC[-1], decoded.code_LBK10[-1], strict=True):
        boxes, scores, labels = top_boxes(logits_KC, code_K10, max_boxes=max_boxes, centre_range=centre_range)
        results.append(InstanceData(bboxes_3d=boxes, scores_3d=scores, labels_3d=labels))
    return results
