"""Boxes out of the maps of a centre head: places, suppression of both kinds, order."""

from __future__ import annotations

import math

import pytest
import torch

from qdbev.detectors.centre import (
    LENGTH_FIRST,
    WIDTH_FIRST,
    CentreGrid,
    CentreHead,
    Circle,
    Decoding,
    Rotated,
    TaskMaps,
    boxes_of_outputs,
    decoded_boxes,
    dense_outputs,
)

GRID = CentreGrid(low_m=(-8.0, -4.0), cell_m=0.5, rows=16, columns=32)


def maps(objects: list[tuple[int, int, int, float]], *, classes: int = 2, size: float = 0.4) -> TaskMaps:
    """Objects as (class, row, column, score); all of one size, turned by 0.3 rad, in the middle of their cells."""
    heat = torch.full((1, classes, 16, 32), -9.0)
    code = torch.zeros(1, 10, 16, 32)
    code[:, :2] = 0.5
    code[:, 3:6] = math.log(size)
    code[:, 6], code[:, 7] = math.sin(0.3), math.cos(0.3)
    code[:, 8] = 2.0
    for label, row, column, score in objects:
        heat[0, label, row, column] = math.log(score / (1 - score))
    return TaskMaps(heat, code)


def boxes(task: TaskMaps, suppression: Rotated | Circle, **options):
    decoding = Decoding((suppression,), **options)
    return decoded_boxes([task], classes=[(3, 4)], grid=GRID, order=LENGTH_FIRST, decoding=decoding)[0]


def test_a_box_by_hand() -> None:
    found = boxes(maps([(1, 8, 18, 0.75)]), Rotated(0.2))
    expected = [1.25, 0.25, -0.2, 0.4, 0.4, 0.4, 0.3, 2.0, 0.0]
    torch.testing.assert_close(found.bboxes_3d.tensor[0], torch.tensor(expected), atol=1e-5, rtol=0)
    assert found.scores_3d.tolist() == pytest.approx([0.75], abs=1e-6)
    assert found.labels_3d.tolist() == [4]


def test_scores_up_to_the_least_and_centres_outside_are_dropped() -> None:
    task = maps([(0, 8, 18, 0.75), (0, 2, 3, 0.09), (0, 2, 30, 0.6)])
    assert len(boxes(task, Rotated(0.2)).scores_3d) == 2
    assert len(boxes(task, Rotated(0.2), centre_range_m=(-8, -4, -1, 7, 4, 1)).scores_3d) == 1
    assert len(boxes(task, Rotated(0.2), candidates=1).scores_3d) == 1


def test_small_things_are_enlarged_before_they_are_compared() -> None:
    """Two cones half a metre apart do not touch; Scale-NMS still takes them for one, as official weights need it."""
    task = maps([(1, 8, 18, 0.75), (1, 8, 19, 0.6), (0, 8, 24, 0.5)])
    assert len(boxes(task, Rotated(0.5)).scores_3d) == 3
    kept = boxes(task, Rotated(0.5, (1.0, 9.0)))
    assert kept.scores_3d.tolist() == pytest.approx([0.75, 0.5], abs=1e-6)
    torch.testing.assert_close(kept.bboxes_3d.tensor[0, 3:6], torch.full((3,), 0.4))  # sizes are the box's own again


def test_suppression_goes_across_the_classes_of_a_task() -> None:
    task = maps([(1, 8, 18, 0.75), (0, 8, 18, 0.6)])
    assert boxes(task, Rotated(0.2)).labels_3d.tolist() == [4]
    assert boxes(task, Circle(0.1)).labels_3d.tolist() == [4]


def test_a_circle_is_told_by_its_squared_radius() -> None:
    """Neighbours 1 m apart go at 1; at 0.9 they stay, though 0.9 m would be less than their squared distance's root."""
    task = maps([(0, 8, 18, 0.9), (0, 8, 20, 0.8), (0, 8, 22, 0.7)])
    assert boxes(task, Circle(1.0)).scores_3d.tolist() == pytest.approx([0.9, 0.7], abs=1e-6)
    assert len(boxes(task, Circle(0.9)).scores_3d) == 3
    assert len(boxes(maps([(0, 8, 18, 0.9), (0, 8, 21, 0.8)]), Circle(1.6)).scores_3d) == 2  # 1.5 m, squared 2.25


def test_so_many_boxes_of_a_task_and_no_more() -> None:
    task = maps([(0, 2, column, 0.9 - 0.01 * column) for column in range(0, 30, 3)])
    assert len(boxes(task, Circle(0.1)).scores_3d) == 10
    assert boxes(task, Circle(0.1), most=4).scores_3d.tolist() == pytest.approx([0.9, 0.87, 0.84, 0.81], abs=1e-5)


def test_tasks_come_together_best_first_and_an_empty_sample_is_empty() -> None:
    tasks = [maps([(0, 2, 3, 0.3)], classes=1), maps([(0, 8, 18, 0.6), (1, 8, 25, 0.2)])]
    decoding = Decoding((Circle(0.1), Rotated(0.2)))
    both = decoded_boxes(tasks, classes=[(0,), (1, 2)], grid=GRID, order=WIDTH_FIRST, decoding=decoding)[0]
    assert both.labels_3d.tolist() == [1, 0, 2]
    assert len(boxes(maps([]), Rotated(0.2)).scores_3d) == len(boxes(maps([]), Circle(0.2)).scores_3d) == 0


def test_rows_of_outputs_stand_for_a_task_and_a_cell() -> None:
    tasks = [maps([(0, 2, 3, 0.3)], classes=1), maps([(0, 8, 18, 0.6)])]
    logits, code = dense_outputs(tasks, classes=[(0,), (1, 2)], grid=GRID, order=LENGTH_FIRST)
    assert logits.shape == (1, 1024, 3) and code.shape == (1, 1024, 10)
    assert logits.sigmoid()[0, 2 * 32 + 3].tolist() == pytest.approx([0.3, 0, 0], abs=1e-6)
    place = 512 + 8 * 32 + 18
    assert logits.sigmoid()[0, place].tolist() == pytest.approx([0, 0.6, 0], abs=1e-3)
    assert code[0, place, [0, 1]].tolist() == [1.25, 0.25]
    heading = -0.3 - math.pi / 2
    assert code[0, place, 6:8].tolist() == pytest.approx([math.sin(heading), math.cos(heading)], abs=1e-6)


def test_outputs_of_other_numbers_of_samples_are_refused() -> None:
    logits, codes = torch.zeros(2, 1024, 3), torch.zeros(1, 1024, 10)
    with pytest.raises(ValueError, match="shorter"):
        boxes_of_outputs(logits, codes, classes=[(0,), (1, 2)], decoding=Decoding((Circle(0.2), Circle(0.2))))


def test_the_head_names_its_last_layers_and_starts_with_few_objects() -> None:
    head = CentreHead(in_channels=4, channels=8, heat_bias=-2.19)
    assert len(head.last_layers()) == 36
    assert float(head.task_heads[1]["heatmap"][1].bias[0].detach()) == pytest.approx(-2.19)
    given = head.eval()(torch.zeros(2, 4, 3, 5))
    assert [task.heat_BCHW.shape[1] for task in given] == [1, 2, 2, 1, 2, 2]
    assert given[0].code_B10HW.shape == (2, 10, 3, 5)
