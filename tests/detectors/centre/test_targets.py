"""Targets of a centre head against mmdet3d's own functions, and its habits by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mmdet3d.models.utils import draw_heatmap_gaussian
from mmdet3d.models.utils import gaussian_radius as their_radius

from qdbev.detectors.centre import LENGTH_FIRST, WIDTH_FIRST, CentreGrid, task_targets
from qdbev.detectors.centre.targets import MOST_OBJECTS, gaussian_radius

GRID = CentreGrid(low_m=(-8.0, -4.0), cell_m=0.5, rows=16, columns=32)


def box(x: float, y: float, *, length: float = 4.0, width: float = 2.0, yaw: float = 0.0) -> list[float]:
    return [x, y, -1.0, length, width, 1.5, yaw, 3.0, -1.0]


def targets(boxes: list, labels: list, *, classes=(0, 1), order=WIDTH_FIRST):
    return task_targets([torch.tensor(boxes)], [torch.tensor(labels)], classes=classes, grid=GRID, order=order)


def test_radius_is_that_of_mmdet3d() -> None:
    generator = torch.Generator().manual_seed(0)
    sizes = torch.rand(20, 2, generator=generator, dtype=torch.float64) * 30 + 0.1
    theirs = torch.stack([their_radius((length, width), 0.1) for length, width in sizes])
    torch.testing.assert_close(gaussian_radius(sizes[:, 0], sizes[:, 1], overlap=0.1), theirs)


def test_heat_maps_are_those_of_mmdet3d() -> None:
    boxes = [box(-7.9, -3.9, length=12.0, width=3.0), box(1.3, 0.2), box(1.9, 0.2), box(7.9, 3.9, length=25.0)]
    found = targets(boxes, [0, 1, 1, 0])
    for number in (0, 1):
        expected = torch.zeros(16, 32)
        for row, label in zip(boxes, [0, 1, 1, 0], strict=True):
            if label == number:
                size = torch.tensor(row[3:5]) / 0.5
                radius = max(2, int(their_radius((size[0], size[1]), 0.1)))
                centre = torch.tensor([(row[0] + 8) / 0.5, (row[1] + 4) / 0.5]).int()
                draw_heatmap_gaussian(expected, centre, radius)
        np.testing.assert_allclose(found.heat_BCHW[0, number].numpy(), expected.numpy(), atol=1e-6)


def test_numbers_by_hand() -> None:
    one = targets([box(1.3, 0.2, yaw=0.3)], [1])
    assert one.cell_O.tolist() == [8 * 32 + 18] and one.sample_O.tolist() == [0]
    sizes = [np.log(2.0), np.log(4.0), np.log(1.5)]
    heading = -0.3 - np.pi / 2
    expected = [0.6, 0.4, -0.25, *sizes, np.sin(heading), np.cos(heading), 3.0, -1.0]
    np.testing.assert_allclose(one.code_O10[0].numpy(), expected, atol=1e-5)
    other = targets([box(1.3, 0.2, yaw=0.3)], [1], order=LENGTH_FIRST)
    expected[3:5], expected[6:8] = sizes[1::-1], [np.sin(0.3), np.cos(0.3)]
    np.testing.assert_allclose(other.code_O10[0].numpy(), expected, atol=1e-5)


def test_centres_are_cut_off_towards_zero() -> None:
    """Up to one cell below the border counts as in the first cell; what lies further out is left out."""
    found = targets([box(-8.45, 0.0), box(-8.55, 0.0), box(8.0, 0.0), box(0.0, -4.4)], [0, 0, 0, 0])
    assert found.cell_O.tolist() == [8 * 32, 16]
    assert found.code_O10[0, 0].item() == pytest.approx(-0.9, abs=1e-5)
    assert (found.heat_BCHW == 1).sum() == 2


def test_classes_of_other_tasks_and_boxes_without_a_size_are_left_out() -> None:
    found = targets([box(0, 0), box(1, 0), box(2, 0, width=0.0), box(3, 0)], [3, 4, 4, 0], classes=(3, 4))
    assert found.cell_O.tolist() == [8 * 32 + 16, 8 * 32 + 18]
    assert found.heat_BCHW[0].amax((1, 2)).tolist() == [1.0, 1.0]
    none = targets([box(0, 0)], [9])
    assert len(none.cell_O) == 0 and none.heat_BCHW.shape == (1, 2, 16, 32) and none.heat_BCHW.sum() == 0
    empty = task_targets([torch.zeros(0, 9)], [torch.zeros(0).long()], classes=(0,), grid=GRID, order=WIDTH_FIRST)
    assert empty.code_O10.shape == (0, 10)


def test_so_many_objects_and_no_more_count_class_after_class() -> None:
    count = MOST_OBJECTS
    found = targets([box(0, 0)] * count + [box(1, 0)], [1] * count + [0])
    assert len(found.cell_O) == MOST_OBJECTS
    assert found.cell_O[0] == 8 * 32 + 18 and (found.cell_O[1:] == 8 * 32 + 16).all()
