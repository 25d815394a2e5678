"""The ten numbers a query predicts for a box, and the way to and from mmdet3d boxes.

Code: centre x, y [m], log width, log length, centre z [m], log height, sin and cos of the heading, velocity x, y [m/s].
The heading is BEVFormer's (mmdet3d 0.x): heading = -yaw - pi / 2 with yaw as in mmdet3d 1.x, counter-clockwise from x.
The official weights speak this code; nothing outside this file and the losses needs to know it.

Shapes: M boxes; a last axis of 10 is a code, of 9 a box (x, y, z of the bottom, length, width, height, yaw, vx, vy).
"""

from __future__ import annotations

import math

import torch
from mmdet3d.structures import LiDARInstance3DBoxes
from torch import Tensor

CODE_SIZE = 10


def encode_boxes(boxes_M9: Tensor) -> Tensor:
    """mmdet3d 1.x boxes with bottom centre and velocity to box codes.

    A velocity of NaN stays NaN: the loss drops such rows.

    >>> box = torch.tensor([[1.0, 2.0, -1.0, 4.0, 2.0, 1.0, 0.0, 3.0, 0.0]])
    >>> encode_boxes(box).round(decimals=2).tolist()
    [[1.0, 2.0, 0.6899999976158142, 1.3899999856948853, -0.5, 0.0, -1.0, -0.0, 3.0, 0.0]]
    """
    x, y, bottom, length, width, height, yaw = boxes_M9[..., :7].unbind(-1)
    # sin(-yaw - pi/2) = -cos(yaw), cos(-yaw - pi/2) = -sin(yaw)
    code = [x, y, width.log(), length.log(), bottom + height / 2, height.log(), -yaw.cos(), -yaw.sin()]
    return torch.cat([torch.stack(code, -1), boxes_M9[..., 7:9]], -1)


def decode_boxes(code_M10: Tensor) -> Tensor:
    """Box codes to mmdet3d 1.x boxes with bottom centre, yaw in [-pi, pi) and velocity.

    >>> box = torch.tensor([[1.0, 2.0, -1.0, 4.0, 2.0, 1.0, 0.5, 3.0, 0.0]])
    >>> torch.allclose(decode_boxes(encode_boxes(box)), box)
    True
    """
    x, y, log_width, log_length, z, log_height, sine, cosine = code_M10[..., :8].unbind(-1)
    height = log_height.exp()
    yaw = -torch.atan2(sine, cosine) - math.pi / 2
    yaw = torch.where(yaw < -math.pi, yaw + 2 * math.pi, yaw)
    box = [x, y, z - height / 2, log_length.exp(), log_width.exp(), height, yaw]
    return torch.cat([torch.stack(box, -1), code_M10[..., 8:10]], -1)


def metric_centre(centre_3: Tensor, *, pc_range: tuple[float, ...]) -> Tensor:
    """Fractions of the range (..., 3) to metres; ``pc_range`` is x, y, z minimum then x, y, z maximum."""
    low, high = centre_3.new_tensor(pc_range[:3]), centre_3.new_tensor(pc_range[3:])
    return centre_3 * (high - low) + low


def top_boxes(
    logits_KC: Tensor, code_K10: Tensor, *, max_boxes: int, centre_range: tuple[float, ...]
) -> tuple[LiDARInstance3DBoxes, Tensor, Tensor]:
    """The best (query, class) pairs of one sample as boxes, without suppression.

    Args:
        logits_KC: Class logits of the last decoder layer.
        code_K10: Metric box codes of the last decoder layer.
        max_boxes: Pairs kept, before the range filter.
        centre_range: Boxes whose centre leaves this box (inclusive, metres) are dropped.

    Returns:
        Boxes, scores in (0, 1) in falling order, and class indices.
    """
    classes = logits_KC.shape[1]
    scores, flat = logits_KC.float().sigmoid().flatten().topk(min(max_boxes, logits_KC.numel()))
    code = code_K10.float()[flat // classes]
    centre = code[:, [0, 1, 4]]
    low, high = centre.new_tensor(centre_range[:3]), centre.new_tensor(centre_range[3:])
    keep = ((centre >= low) & (centre <= high)).all(-1)
    boxes = LiDARInstance3DBoxes(decode_boxes(code[keep]), box_dim=9)
    return boxes, scores[keep], (flat % classes)[keep]
