"""What a centre head should predict: a heat map for each class, and the numbers of the box at each object's cell.

CenterPoint (arXiv 2006.11275) section 4 as mmdet3d computes it. Two habits of that code matter to official weights:
cells are cut off towards zero, so an object up to one cell outside the lower border counts as in the first; and the
radius takes (b + root) / 2 in all three cases of CornerNet's formula.

Shapes: B samples, O objects of all samples, M objects of one, C classes of the task, H W of the map.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qdbev.detectors.boxes.box_code import encode_boxes
from qdbev.detectors.boxes.centre_heatmap import draw_centres
from qdbev.detectors.centre.code_order import CodeOrder
from qdbev.detectors.centre.grid import CentreGrid

MOST_OBJECTS = 500  # of one task and sample
MIN_OVERLAP, MIN_RADIUS = 0.1, 2


@dataclass(frozen=True)
class TaskTargets:
    """Targets of one group of classes.

    Attributes:
        heat_BCHW: 1 at the centres, Gaussians around them.
        sample_O: Sample of each object.
        cell_O: Its cell, row by row.
        code_O10: What the map should say there; NaN where it is not known.
    """

    heat_BCHW: Tensor
    sample_O: Tensor
    cell_O: Tensor
    code_O10: Tensor


def task_targets(
    boxes: Sequence[Tensor], labels: Sequence[Tensor], *, classes: Sequence[int], grid: CentreGrid, order: CodeOrder
) -> TaskTargets:
    """Targets of one task.

    Args:
        boxes: Per sample (M, 9), mmdet3d 1.x with bottom centres.
        labels: Per sample (M,), class indices.
        classes: Those of the task.
        grid: The map's cells.
        order: Of the head's numbers.
    """
    rows = [_of_sample(*pair, classes=classes, grid=grid) for pair in zip(boxes, labels, strict=True)]
    boxes_O9, class_O, places_O2 = (torch.cat(column) for column in zip(*rows, strict=True))
    sample_O = torch.cat([torch.full_like(row[1], number) for number, row in enumerate(rows)])
    cells_O2 = places_O2.long()
    size_O2 = boxes_O9[:, 3:5] / grid.cell_m
    radius_O = gaussian_radius(size_O2[:, 0], size_O2[:, 1], overlap=MIN_OVERLAP).long().clamp(min=MIN_RADIUS)
    heat = draw_centres(
        cells_O2,
        sigma_O=(2 * radius_O + 1) / 6,
        maps_O=sample_O * len(classes) + class_O,
        count=len(boxes) * len(classes),
        rows=grid.rows,
        columns=grid.columns,
        radius_O=radius_O,
    )
    code = encode_boxes(boxes_O9)
    code = torch.cat([places_O2 - cells_O2, code[:, 2:]], -1)
    return TaskTargets(
        heat_BCHW=heat.unflatten(0, (len(boxes), len(classes))),
        sample_O=sample_O,
        cell_O=cells_O2[:, 1] * grid.columns + cells_O2[:, 0],
        code_O10=order.of_box_code(code),
    )


def _of_sample(
    boxes_M9: Tensor, labels_M: Tensor, *, classes: Sequence[int], grid: CentreGrid
) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes of the task inside the map, their class in the task, and (x, y) of their centres in cells."""
    wanted = labels_M[:, None] == labels_M.new_tensor(list(classes))
    object_M, class_M = wanted.T.nonzero(as_tuple=True)[::-1]  # class after class
    object_M, class_M = object_M[:MOST_OBJECTS], class_M[:MOST_OBJECTS]
    boxes = boxes_M9[object_M]
    places = (boxes[:, :2] - boxes.new_tensor(grid.low_m)) / grid.cell_m
    inside = ((places > -1) & (places < places.new_tensor([grid.columns, grid.rows]))).all(-1)
    inside &= (boxes[:, 3:5] > 0).all(-1)
    return boxes[inside], class_M[inside], places[inside]


def gaussian_radius(length: Tensor, width: Tensor, *, overlap: float) -> Tensor:
    """Radius within which a shifted box keeps an overlap, CornerNet (arXiv 1808.01244), in mmdet3d's variant.

    >>> gaussian_radius(torch.tensor([6.0]), torch.tensor([2.5]), overlap=0.1).double().round(decimals=3).tolist()
    [1.624]
    """
    total, area = length + width, length * width
    largest = (total + (total**2 - 4 * area * (1 - overlap) / (1 + overlap)).sqrt()) / 2
    inner = (2 * total + (4 * total**2 - 16 * (1 - overlap) * area).sqrt()) / 2
    outer = (-2 * overlap * total + (4 * overlap**2 * total**2 - 16 * overlap * (overlap - 1) * area).sqrt()) / 2
    return torch.minimum(torch.minimum(largest, inner), outer)
