"""From the maps of a centre head to boxes, and to the rows of logits and box codes that outputs are compared by.

Shapes: B samples, C classes (of a task, or of all), Q cells, K = tasks times cells, J candidates, H W of the map.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from mmdet3d.structures import LiDARInstance3DBoxes
from mmengine.structures import InstanceData
from torch import Tensor

from qdbev.detectors.boxes.box_code import decode_boxes
from qdbev.detectors.centre.code_order import CodeOrder
from qdbev.detectors.centre.grid import CentreGrid
from qdbev.detectors.centre.head import TASKS, TaskMaps
from qdbev.ops.rotated_suppression import suppressed

OUTSIDE_LOGIT = -20.0  # of classes that a task does not have


@dataclass(frozen=True)
class Rotated:
    """Suppress what overlaps a better box from above; Scale-NMS where factors differ from 1 (BEVDet, 2112.11790).

    Attributes:
        overlap: Largest intersection over union that is left.
        factors: What a box of each class of the task is enlarged by before it is compared.
    """

    overlap: float
    factors: tuple[float, ...] = ()


@dataclass(frozen=True)
class Circle:
    """Suppress what has its centre near that of a better box.

    Attributes:
        squared_m2: SQUARED distance up to which it is suppressed.
    """

    squared_m2: float


_CIRCLES_M2 = (4.0, 12.0, 10.0, 1.0, 0.85, 0.175)  # of nuScenes' tasks, by CenterPoint
_PLAIN_CIRCLE_M2 = 1.0


def circles_of(tasks: Sequence[Sequence[int]]) -> tuple[Circle, ...]:
    """CenterPoint's circle of each of nuScenes' tasks, and one of a metre for tasks of other classes."""
    return tuple(map(Circle, _CIRCLES_M2 if tasks == TASKS else (_PLAIN_CIRCLE_M2,) * len(tasks)))


@dataclass(frozen=True)
class Decoding:
    """Which cells become boxes.

    Attributes:
        suppression: For each task.
        candidates: Best cells and classes of a task that are looked at.
        min_score: Scores up to it are dropped.
        centre_range_m: Gravity centres outside are dropped: x, y, z minimum, then maximum.
        most: Boxes of a task that are left.
    """

    suppression: tuple[Rotated | Circle, ...]
    candidates: int = 500
    min_score: float = 0.1
    centre_range_m: tuple[float, ...] = (-61.2, -61.2, -10.0, 61.2, 61.2, 10.0)
    most: int = 83


def metric_code(maps: TaskMaps, *, grid: CentreGrid, order: CodeOrder) -> Tensor:
    """Box codes (B, Q, 10) with metric centres of every cell."""
    output_BQ10 = maps.code_B10HW.flatten(2).transpose(1, 2)
    cells = torch.arange(grid.cells, device=output_BQ10.device)
    corners_Q2 = torch.stack([cells % grid.columns, cells // grid.columns], -1)
    centre_BQ2 = (corners_Q2 + output_BQ10[..., :2]) * grid.cell_m + output_BQ10.new_tensor(grid.low_m)
    return order.to_box_code(torch.cat([centre_BQ2, output_BQ10[..., 2:]], -1))


def dense_outputs(
    tasks: Sequence[TaskMaps], *, classes: Sequence[Sequence[int]], grid: CentreGrid, order: CodeOrder
) -> tuple[Tensor, Tensor]:
    """Class logits (B, K, C) and box codes (B, K, 10): a row for every task and cell."""
    count = sum(len(of_task) for of_task in classes)
    logits, codes = [], []
    for maps, of_task in zip(tasks, classes, strict=True):
        heat_BQC = maps.heat_BCHW.flatten(2).transpose(1, 2)
        outside = torch.full_like(heat_BQC[..., :1], OUTSIDE_LOGIT)
        places = [of_task.index(label) if label in of_task else len(of_task) for label in range(count)]
        logits.append(torch.cat([heat_BQC, outside], -1)[..., places])
        codes.append(metric_code(maps, grid=grid, order=order))
    return torch.cat(logits, 1), torch.cat(codes, 1)


def decoded_boxes(
    tasks: Sequence[TaskMaps],
    *,
    classes: Sequence[Sequence[int]],
    grid: CentreGrid,
    order: CodeOrder,
    decoding: Decoding,
) -> list[InstanceData]:
    """Boxes of every sample, best first, in the frame of the map."""
    heats = zip(*(maps.heat_BCHW.flatten(2) for maps in tasks), strict=True)
    codes = zip(*(metric_code(maps, grid=grid, order=order) for maps in tasks), strict=True)
    return [_instances(*pair, classes=classes, decoding=decoding) for pair in zip(heats, codes, strict=True)]


def boxes_of_outputs(
    logits_BKC: Tensor, codes_BKD: Tensor, *, classes: Sequence[Sequence[int]], decoding: Decoding
) -> list[InstanceData]:
    """The same of what ``dense_outputs`` gives."""
    boxes = []
    for logits_KC, codes_KD in zip(logits_BKC, codes_BKD, strict=True):
        rows = zip(logits_KC.chunk(len(classes)), classes, strict=True)
        heats = [logits_QC[:, list(of_task)].T for logits_QC, of_task in rows]
        boxes.append(_instances(heats, codes_KD.chunk(len(classes)), classes=classes, decoding=decoding))
    return boxes


def _instances(
    heats: Sequence[Tensor], codes: Sequence[Tensor], *, classes: Sequence[Sequence[int]], decoding: Decoding
) -> InstanceData:
    """Of one sample's logits (classes, Q) and box codes (Q, 10) of each task."""
    rows: list[tuple[Tensor, Tensor, Tensor]] = []
    for heat_CQ, code_Q10, of_task, suppression in zip(heats, codes, classes, decoding.suppression, strict=True):
        code, scores, label = _candidates(heat_CQ, code_Q10, decoding=decoding)
        boxes = decode_boxes(code)
        left = _left(boxes, label=label, by=suppression)[: decoding.most]
        rows.append((boxes[left], scores[left], label.new_tensor(list(of_task))[label[left]]))
    boxes, scores, labels = (torch.cat(column) for column in zip(*rows, strict=True))
    best = scores.argsort(descending=True, stable=True)
    return InstanceData(
        bboxes_3d=LiDARInstance3DBoxes(boxes[best], box_dim=9), scores_3d=scores[best], labels_3d=labels[best]
    )


def _candidates(heat_CQ: Tensor, code_Q10: Tensor, *, decoding: Decoding) -> tuple[Tensor, Tensor, Tensor]:
    """Codes, scores and classes in the task of the best cells, best first."""
    scores, flat = heat_CQ.sigmoid().flatten().topk(min(decoding.candidates, heat_CQ.numel()))
    code = code_Q10[flat % heat_CQ.shape[1]]
    centre = code[:, [0, 1, 4]]
    low, high = centre.new_tensor(decoding.centre_range_m[:3]), centre.new_tensor(decoding.centre_range_m[3:])
    wanted = (scores > decoding.min_score) & ((centre >= low) & (centre <= high)).all(-1)
    return code[wanted], scores[wanted], (flat // heat_CQ.shape[1])[wanted]


def _left(boxes_J9: Tensor, *, label: Tensor, by: Rotated | Circle) -> Tensor:
    """Indices of what is left, best first; compared on the CPU, in code that no watcher of torch sees."""
    if not len(boxes_J9):
        return label
    if isinstance(by, Circle):
        return _apart(boxes_J9[:, :2].detach().cpu(), squared_m2=by.squared_m2).to(label.device)
    factors = boxes_J9.new_tensor(by.factors or (1.0,))[label if by.factors else torch.zeros_like(label)]
    seen_J5 = torch.cat([boxes_J9[:, :2], boxes_J9[:, 3:5] * factors[:, None], boxes_J9[:, 6:7]], -1)
    return suppressed(seen_J5, overlap=by.overlap)


def _apart(centres_J2: Tensor, *, squared_m2: float) -> Tensor:
    """Indices of centres, best first, none within the distance of a better one that is left."""
    centres = centres_J2.numpy()
    near_JJ = np.square(centres[:, None] - centres[None]).sum(-1) <= squared_m2
    gone, left = np.zeros(len(centres), dtype=bool), []
    for index in range(len(centres)):
        if not gone[index]:
            left.append(index)
            gone |= near_JJ[index]
    return torch.tensor(left, dtype=torch.long)
