"""Losses of a centre head: focal on the heat maps, L1 on the numbers of each object's box.

Shapes: B samples, O objects, C classes of a task, H W of the map.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qdbev.detectors.boxes.centre_heatmap import centre_focal
from qdbev.detectors.centre.head import TaskMaps
from qdbev.detectors.centre.targets import TaskTargets

BOX_WEIGHT = 0.25
LOWEST = 1e-4  # of a clamped probability
_SLICES = {"xy": (0, 2), "z": (2, 3), "whl": (3, 6), "yaw": (6, 8), "vel": (8, 10)}


@dataclass(frozen=True)
class TaskLoss:
    """Losses of one task.

    Attributes:
        heat: Focal loss over the number of peaks.
        boxes: L1 loss of each kind of number: ``xy``, ``z``, ``whl``, ``yaw``, ``vel``.
    """

    heat: Tensor
    boxes: dict[str, Tensor]


def task_losses(
    maps: TaskMaps,
    targets: TaskTargets,
    *,
    code_weights: Sequence[float],
    divisor: Tensor,
    peaks: Tensor | None = None,
) -> TaskLoss:
    """Losses of one task; ``maps`` stay as they are (the official code leaves probabilities in them).

    Args:
        maps: What the head gave.
        targets: What it should.
        code_weights: Weights of the ten numbers.
        divisor: What the sum of errors of the boxes is divided by.
        peaks: What the sum over the heat map is divided by; None: the cells that are 1, at least one.
    """
    count = (targets.heat_BCHW == 1).sum() if peaks is None else peaks
    heat = centre_focal(
        maps.heat_BCHW.flatten(0, 1),
        targets_GHW=targets.heat_BCHW.flatten(0, 1),
        objects=float(count),
        lowest=LOWEST,
    )
    predicted_O10 = maps.code_B10HW.flatten(2)[targets.sample_O, :, targets.cell_O]
    known = targets.code_O10.isfinite()
    error = (predicted_O10 - torch.where(known, targets.code_O10, predicted_O10.detach())).abs()
    weighted = error * error.new_tensor(list(code_weights))
    boxes = {name: BOX_WEIGHT * weighted[:, low:high].sum() / divisor for name, (low, high) in _SLICES.items()}
    return TaskLoss(heat, boxes)
