"""CenterPoint's head (arXiv 2006.11275) on a BEV map: network, targets, losses, boxes; shared by several detectors."""

from __future__ import annotations

from qdbev.detectors.centre.code_order import LENGTH_FIRST, WIDTH_FIRST, CodeOrder
from qdbev.detectors.centre.decoding import (
    Circle,
    Decoding,
    Rotated,
    boxes_of_outputs,
    circles_of,
    decoded_boxes,
    dense_outputs,
)
from qdbev.detectors.centre.grid import CentreGrid
from qdbev.detectors.centre.head import TASKS, CentreHead, TaskMaps
from qdbev.detectors.centre.losses import TaskLoss, task_losses
from qdbev.detectors.centre.targets import TaskTargets, task_targets

__all__ = [
    "LENGTH_FIRST",
    "TASKS",
    "WIDTH_FIRST",
    "CentreGrid",
    "CentreHead",
    "Circle",
    "CodeOrder",
    "Decoding",
    "Rotated",
    "TaskLoss",
    "TaskMaps",
    "TaskTargets",
    "boxes_of_outputs",
    "circles_of",
    "decoded_boxes",
    "dense_outputs",
    "task_losses",
    "task_targets",
]
