"""Boxes from above: which pixels a box takes, that up is forward, and ticks at the front."""

from __future__ import annotations

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg

from qdbev.reporting.charts.figure import new_figure
from qdbev.reporting.drawings.bev_drawing import draw_bev_boxes, draw_bev_ground, heading_ticks

RANGE_M = 50.0


def panel(boxes, **arguments):
    """The panel as (400, 400, 3) with 4 pixels per metre; row 0 is y = 50 m, column 0 is x = -50 m."""
    figure = new_figure(width_px=400, height_px=400)
    axes = figure.add_axes((0, 0, 1, 1))
    draw_bev_ground(axes, range_m=RANGE_M)
    draw_bev_boxes(axes, boxes=boxes, colours=["#ff0000"] * len(boxes), **arguments)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].astype(int)


def red(image):
    return (image[..., 0] > 200) & (image[..., 1] < 60) & (image[..., 2] < 60)


def test_a_filled_box_takes_the_pixels_of_its_footprint():
    """8 m x 4 m at 20 m right and 30 m ahead: columns 264 to 296, rows 72 to 88."""
    box = np.array([[20.0, 30.0, 0.0, 8.0, 4.0, 1.5, 0.0, 0.0, 0.0]])
    rows, columns = np.nonzero(red(panel(box, filled=True)))
    assert (columns.min(), columns.max()) in {(264, 295), (263, 296), (264, 296)}
    assert (rows.min(), rows.max()) in {(72, 87), (71, 88), (72, 88)}
    assert abs(len(rows) - 32 * 16) <= 2 * (32 + 16)


def test_the_ego_vehicle_is_as_large_as_a_car_and_points_up():
    """1.9 m wide and 4.4 m long, its nose 2.4 m ahead of the middle, at 4 pixels a metre."""
    image = panel(np.zeros((0, 9)), filled=True)
    rows, columns = np.nonzero((image.sum(-1) < 400)[150:250, 150:250])
    assert (rows.min(), rows.max()) in {(40, 57), (40, 58), (41, 57)}
    assert abs(columns.min() + columns.max() - 99) <= 1 and 7 <= np.ptp(columns) + 1 <= 9
    assert np.ptp(columns[rows == rows.min()]) < np.ptp(columns[rows == rows.max()])


def test_an_outline_is_hollow_and_has_its_tick_ahead():
    box = np.array([[-20.0, -10.0, 0.0, 8.0, 4.0, 1.5, np.pi / 2, 0.0, 0.0]])  # heads forward, front at y = -6
    drawn = red(panel(box, filled=False))
    assert not drawn[240, 120]  # the middle
    assert drawn[222:224, 119:122].any()  # 0.5 m ahead of the front edge at row 224
    assert not drawn[257:, :].any()  # nothing behind the rear edge at row 256


def test_no_boxes_leave_the_ground_as_it_is():
    empty = np.zeros((0, 9))
    assert (panel(empty, filled=True) == panel(empty, filled=False)).all()
    assert heading_ticks(empty) == []


def test_ticks_turn_with_the_box():
    box = np.array([[0.0, 0.0, 0.0, 4.0, 2.0, 1.0, np.pi, 0.0, 0.0]])
    np.testing.assert_allclose(heading_ticks(box)[0], [[-2.0, 0.0], [-3.2, 0.0]], atol=1e-12)
