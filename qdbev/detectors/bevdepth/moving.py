"""Boxes from one upright frame into another, which may be scaled; what tilts a little stays upright.

Shapes: M boxes.
"""

from __future__ import annotations

import torch
from torch import Tensor


def moved_boxes(boxes_M9: Tensor, *, pose_44: Tensor) -> Tensor:
    """Boxes (M, 9) x, y, z of the bottom, length, width, height, yaw, vx, vy in the frame that a pose leads to.

    >>> pose = torch.tensor([[0.0, -1, 0, 5], [1, 0, 0, 0], [0, 0, 1, 1], [0, 0, 0, 1]])  # a quarter turn, and a shift
    >>> moved_boxes(torch.tensor([[1.0, 2, 0, 4, 2, 1, 0, 3, 0]]), pose_44=pose).round(decimals=3).tolist()
    [[3.0, 1.0, 1.0, 4.0, 2.0, 1.0, 1.5709999799728394, 0.0, 3.0]]
    """
    pose = pose_44.to(device=boxes_M9.device, dtype=torch.float64)
    boxes = boxes_M9.double()
    centre = torch.cat([boxes[:, :2], boxes[:, 2:3] + boxes[:, 5:6] / 2], -1) @ pose[:3, :3].T + pose[:3, 3]
    ahead = torch.stack([boxes[:, 6].cos(), boxes[:, 6].sin()], -1) @ pose[:2, :2].T
    yaw = torch.atan2(ahead[:, 1], ahead[:, 0])[:, None]
    velocity = boxes[:, 7:9] @ pose[:2, :2].T
    sizes = boxes[:, 3:6] * torch.linalg.det(pose[:3, :3]).abs() ** (1 / 3)
    bottom = centre[:, 2:3] - sizes[:, 2:3] / 2
    return torch.cat([centre[:, :2], bottom, sizes, yaw, velocity], -1).to(boxes_M9.dtype)
