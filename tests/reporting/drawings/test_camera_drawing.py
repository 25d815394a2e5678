"""Boxes in camera images: which pixels change, and that enlarging moves image and projection together."""

from __future__ import annotations

import numpy as np
import pytest

from qdbev.reporting.drawings.camera_drawing import draw_camera_boxes, enlarge_image

FORWARD = np.array([[100.0, 50.0, 0, 0], [0, 40.0, -100.0, 0], [0, 1.0, 0, 0], [0, 0, 0, 1.0]])
# 2 m wide and high, 4 m long along the view, 6 m ahead at its near face: seen as two nested squares
BOX = np.array([[0.0, 8.0, -1.0, 4.0, 2.0, 2.0, np.pi / 2, 0.0, 0.0]])
RED = np.array([[255, 0, 0]], dtype=np.uint8)


def near(points, *, shape, radius):
    """Mask of pixels within a radius of any of the points (u, v)."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    return np.any([np.hypot(columns - u, rows - v) <= radius for u, v in points], axis=0)


def lines(corners):
    """Many points on the edges of the two squares, on the lines between them, and on the heading line."""
    t = np.linspace(0, 1, 200)[:, None]
    pairs = [(0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6), (6, 7), (7, 4), (0, 4), (1, 5), (2, 6), (3, 7), (8, 9)]
    corners = np.array(corners)
    return np.concatenate([corners[a] + t * (corners[b] - corners[a]) for a, b in pairs])


# u = 50 + 100 x / y, v = 40 - 100 z / y at y = 6 and y = 10, x and z = -1, 1; heading from (0, 8, -1) to (0, 10, -1)
A, B = 100 / 6, 10.0
CORNERS = [
    *[(50 - A, 40 - A), (50 + A, 40 - A), (50 + A, 40 + A), (50 - A, 40 + A)],
    *[(50 - B, 40 - B), (50 + B, 40 - B), (50 + B, 40 + B), (50 - B, 40 + B)],
    *[(50.0, 40 + 12.5), (50.0, 50.0)],
]


@pytest.mark.parametrize("shadow", [0.0, 0.45])
def test_pixels_change_along_the_projected_edges_and_nowhere_else(shadow):
    image = np.full((80, 100, 3), 200, dtype=np.uint8)
    drawn = draw_camera_boxes(image, boxes=BOX, lidar2img=FORWARD, colours=RED, shadow=shadow)
    changed = (drawn != image).any(axis=-1)
    points = lines(CORNERS)
    assert not (changed & ~near(points, shape=changed.shape, radius=2.5 + 1.0 * (shadow > 0))).any()
    for u, v in CORNERS:
        assert changed[near([(u, v)], shape=changed.shape, radius=1.2)].any(), (u, v)
    on_line = np.round(points).astype(int)
    assert changed[on_line[:, 1], on_line[:, 0]].mean() > 0.97
    assert (image == 200).all()


def test_colours_belong_to_their_boxes():
    """Two boxes far to the left and right; each half of the image shows its own colour only."""
    boxes = np.concatenate([BOX, BOX])
    boxes[0, :2], boxes[1, :2] = (-2.5, 9.0), (2.5, 9.0)
    boxes[:, 3:6] = 1.0
    image = np.zeros((80, 100, 3), dtype=np.uint8)
    colours = np.array([[255, 0, 0], [0, 0, 255]], dtype=np.uint8)
    drawn = draw_camera_boxes(image, boxes=boxes, lidar2img=FORWARD, colours=colours)
    assert drawn[:, :50, 0].max() > 200
    assert drawn[:, :50, 2].max() == 0
    assert drawn[:, 50:, 2].max() > 200
    assert drawn[:, 50:, 0].max() == 0


def test_the_nearer_box_is_drawn_last():
    far, close = BOX.copy(), BOX.copy()
    far[0, 1], close[0, 1] = 40.0, 8.0
    image = np.zeros((80, 100, 3), dtype=np.uint8)
    colours = np.array([[255, 0, 0], [0, 0, 255]], dtype=np.uint8)
    one = draw_camera_boxes(image, boxes=np.concatenate([far, close]), lidar2img=FORWARD, colours=colours)
    other = draw_camera_boxes(image, boxes=np.concatenate([close, far]), lidar2img=FORWARD, colours=colours[::-1])
    assert (one == other).all()


def test_no_boxes_and_boxes_behind_change_nothing():
    image = np.random.default_rng(0).integers(0, 255, (80, 100, 3), dtype=np.uint8)
    behind = BOX.copy()
    behind[0, 1] = -20.0
    for boxes in (np.zeros((0, 9)), behind):
        drawn = draw_camera_boxes(image, boxes=boxes, lidar2img=FORWARD, colours=np.repeat(RED, len(boxes), axis=0))
        assert (drawn == image).all()


def test_a_box_around_the_camera_does_not_fail():
    """The ego sits inside the box: all edges cross the near plane or miss it; coordinates stay small enough for cv2."""
    around = np.array([[0.0, 0.0, -5.0, 30.0, 20.0, 10.0, 0.3, 0.0, 0.0]])
    image = np.zeros((80, 100, 3), dtype=np.uint8)
    assert draw_camera_boxes(image, boxes=around, lidar2img=FORWARD, colours=RED).shape == (80, 100, 3)


@pytest.mark.parametrize(("width_px", "height_px"), [(300, 240), (50, 40)])
def test_enlarging_moves_image_and_projection_together(width_px, height_px):
    image = np.zeros((80, 100, 3), dtype=np.uint8)
    image[:, 50:] = 240
    large, projection = enlarge_image(image, lidar2img=FORWARD, width_px=width_px, height_px=height_px)
    assert large.shape == (height_px, width_px, 3)
    u, v, depth = (projection @ [0.0, 10.0, 0.0, 1.0])[:3]
    assert (u / depth, v / depth) == (width_px / 2, height_px / 2)
    assert large[:, : width_px // 2 - 4].max() < 30
    assert large[:, width_px // 2 + 4 :].min() > 210
