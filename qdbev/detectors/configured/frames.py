"""Predicted boxes of one key frame: from each camera's frame to the lidar's, merged over cameras, best first.

Boxes of ``LiDARInstance3DBoxes`` and ``CameraInstance3DBoxes`` have their BOTTOM centre, three sizes, yaw and, where
the detector predicts it, velocity over ground.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmdet3d.models.layers import nms_bev
from mmdet3d.structures import CameraInstance3DBoxes, LiDARInstance3DBoxes, xywhr2xyxyr
from mmengine.structures import InstanceData
from torch import Tensor

OVERLAP = 0.05  # of mmdet3d's nuScenes metric: boxes of one class that overlap more from above are one object


def frame_boxes(views: Sequence[tuple[InstanceData, Any]], *, class_order: Sequence[int]) -> InstanceData:
    """The boxes of all views of one key frame in the lidar's frame.

    What several cameras saw of one object is merged, as mmdet3d's nuScenes metric does; it also drops scores below
    0.01, which is left here to the detector's own threshold.

    Args:
        views: Predictions, with lidar2cam (4, 4) where they are one camera's.
        class_order: For each label of the detector, that of the caller.

    Raises:
        ValueError: boxes of a camera whose pose is not known, or of another kind.
    """
    boxes_N9 = torch.cat([_in_lidar(boxes, lidar2cam) for boxes, lidar2cam in views])
    scores_N = torch.cat([boxes.scores_3d for boxes, _ in views])
    labels_N = torch.cat([boxes.labels_3d.long() for boxes, _ in views])
    order_N = _merged(boxes_N9, scores_N, labels_N) if len(views) > 1 else torch.arange(len(scores_N))
    order_N = order_N.to(scores_N.device)
    order_N = order_N[scores_N[order_N].argsort(descending=True, stable=True)]
    return InstanceData(
        bboxes_3d=LiDARInstance3DBoxes(boxes_N9[order_N], box_dim=9),
        scores_3d=scores_N[order_N],
        labels_3d=torch.tensor(list(class_order), device=labels_N.device)[labels_N[order_N]],
    )


def _in_lidar(predicted: InstanceData, lidar2cam: Any) -> Tensor:
    boxes = predicted.bboxes_3d
    if isinstance(boxes, LiDARInstance3DBoxes):
        return with_velocity(boxes.tensor)
    if not isinstance(boxes, CameraInstance3DBoxes):
        raise ValueError(f"the detector predicts {type(boxes).__name__}; boxes of the lidar or of a camera are taken")
    if lidar2cam is None:
        raise ValueError(
            "the detector predicts boxes in a camera's frame, but its config reads all cameras at once; use load_type "
            "mv_image_based"
        )
    return from_camera(with_velocity(boxes.tensor), lidar2cam=torch.as_tensor(lidar2cam))


def with_velocity(boxes: Tensor) -> Tensor:
    """Boxes (N, 9) of boxes (N, 7 or 9): a detector that predicts no velocity says zero."""
    return torch.nn.functional.pad(boxes, (0, 9 - boxes.shape[1]))


def from_camera(boxes_N9: Tensor, *, lidar2cam: Tensor) -> Tensor:
    """Boxes (N, 9) of a camera's frame in the lidar's: a box stays upright, its centre, direction and velocity turn.

    Args:
        boxes_N9: x, y, z of the bottom centre (y is down), length, height, width, yaw about y, velocity along x and z.
        lidar2cam: (4, 4).

    Returns:
        x, y, z of the bottom centre, length, width, height, yaw about z, velocity along x and y.
    """
    turn = lidar2cam[:3, :3].to(boxes_N9)
    bottom, size, yaw, speed = boxes_N9[:, :3], boxes_N9[:, 3:6], boxes_N9[:, 6], boxes_N9[:, 7:9]
    half_height = torch.zeros_like(bottom)
    half_height[:, 1] = size[:, 1] / 2
    centre = (bottom - half_height - lidar2cam[:3, 3].to(boxes_N9)) @ turn
    along = torch.stack([yaw.cos(), torch.zeros_like(yaw), -yaw.sin()], dim=1) @ turn
    velocity = torch.stack([speed[:, 0], torch.zeros_like(yaw), speed[:, 1]], dim=1) @ turn
    lowered = centre - torch.nn.functional.pad(size[:, 1:2] / 2, (2, 0))
    turned = torch.atan2(along[:, 1], along[:, 0])[:, None]
    return torch.cat([lowered, size[:, [0, 2, 1]], turned, velocity[:, :2]], dim=1)


def _merged(boxes_N9: Tensor, scores_N: Tensor, labels_N: Tensor) -> Tensor:
    """Indices that stay when overlapping boxes of a class, seen from above, are taken for one."""
    flat = xywhr2xyxyr(LiDARInstance3DBoxes(boxes_N9, box_dim=9).bev)
    places = [torch.zeros(0, dtype=torch.long, device=labels_N.device)]
    for label in labels_N.unique():
        of_class = (labels_N == label).nonzero()[:, 0]
        places.append(of_class[nms_bev(flat[of_class], scores_N[of_class], OVERLAP)])
    return torch.cat(places)
