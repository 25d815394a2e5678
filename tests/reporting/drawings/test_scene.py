"""The whole picture of a scene: sizes, places of the cameras, what a box changes, files that decode."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from matplotlib.figure import Figure

from qdbev.reporting.charts.figure import BLUE
from qdbev.reporting.drawings.scene import (
    CLASS_COLOURS,
    BoxSource,
    _draw_header,
    box_colours,
    confident,
    encode_image,
    scene_image,
)

FORWARD = np.array([[60.0, 44.0, 0, 0], [0, 24.0, -60.0, 0], [0, 1.0, 0, 0], [0, 0, 0, 1.0]])


def turned(degrees):
    """The same camera looking so many degrees counter-clockwise from forward."""
    angle = np.deg2rad(degrees)
    rotation = np.eye(4)
    rotation[:2, :2] = [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]
    return FORWARD @ rotation


PROJECTIONS = np.stack([turned(angle) for angle in (0, -55, 55, 180, 110, -110)])
GREYS = (40, 80, 120, 160, 200, 240)
IMAGES = [np.full((48, 88, 3), grey, dtype=np.uint8) for grey in GREYS]
BOX = np.array([[0.0, 15.0, -1.0, 4.0, 2.0, 1.6, np.pi / 2, 0.0, 0.0]])
TRUTH = BoxSource("ground truth", BOX, np.array([0]))


def test_size_and_places_of_the_cameras():
    """960 px wide: columns of (960 - 28 - 16) // 3 = 305, cameras of 305 x 166; two rows from pixel 44 on."""
    image = scene_image(IMAGES, lidar2img=PROJECTIONS, sources=[BoxSource("none", np.zeros((0, 9)))], width_px=960)
    assert image.shape == (44 + 2 * (166 + 8) + 40 + 305 + 14, 960, 3)
    assert image.dtype == np.uint8
    middles = [(44 + 83, 14 + 152), (44 + 83, 14 + 313 + 152), (44 + 83, 14 + 626 + 152)]
    assert [int(image[place][0]) for place in middles] == [120, 40, 80]  # front left, front, front right
    middles = [(44 + 174 + 83, column) for _, column in middles]
    assert [int(image[place][0]) for place in middles] == [200, 160, 240]  # back left, back, back right


def test_a_camera_image_lies_at_whole_pixels():
    image = scene_image(IMAGES, lidar2img=PROJECTIONS, sources=[BoxSource("none", np.zeros((0, 9)))], width_px=960)
    front = image[44 : 44 + 166, 14 + 313 : 14 + 313 + 305]
    assert (front[40:] == 40).all()
    assert (image[44 + 166 : 44 + 174, 14:946] == 255).all()


def test_a_box_ahead_changes_the_front_camera_and_the_panel_only():
    empty = scene_image(
        IMAGES, lidar2img=PROJECTIONS, sources=[BoxSource("ground truth", np.zeros((0, 9)))], width_px=960
    )
    drawn = scene_image(IMAGES, lidar2img=PROJECTIONS, sources=[TRUTH], width_px=960)
    rows, columns = np.nonzero((drawn != empty).any(axis=-1))
    cameras = rows < 44 + 2 * 174
    assert (rows[cameras] < 44 + 166).all()
    assert (columns[cameras] >= 14 + 313).all()
    assert (columns[cameras] < 14 + 313 + 305).all()
    # 13 m to 17 m ahead, 2 m wide, bottom 1 m below the camera: u = 44 + 60 x / y, v = 24 + 60 / y, times 305 / 88
    scale, v_scale = 305 / 88, 166 / 48
    assert columns[cameras].min() - 327 == pytest.approx((44 - 60 / 13) * scale, abs=4)
    assert columns[cameras].max() - 327 == pytest.approx((44 + 60 / 13) * scale, abs=4)
    assert rows[cameras].max() - 44 == pytest.approx((24 + 60 / 13) * v_scale, abs=4)
    panel = ~cameras & (rows > 44 + 2 * 174 + 40)
    assert panel.any()
    assert (columns[panel] < 14 + 305).all()


def test_boxes_below_the_score_are_left_out():
    source = BoxSource("float", np.repeat(BOX, 3, axis=0), np.array([0, 1, 2]), np.array([0.9, 0.29, 0.3]), BLUE)
    kept = confident(source, min_score=0.3)
    assert kept.labels.tolist() == [0, 2]
    assert kept.scores is not None
    assert kept.scores.tolist() == [0.9, 0.3]
    assert kept.boxes.shape == (2, 9)
    assert confident(TRUTH, min_score=0.99) is TRUTH


def test_colours_by_source_or_by_class():
    assert box_colours(BoxSource("x", np.zeros((2, 9)), np.array([8, 0]), colour=None)) == [
        CLASS_COLOURS[8],
        CLASS_COLOURS[0],
    ]
    assert box_colours(BoxSource("x", np.zeros((2, 9)), colour=BLUE)) == [BLUE, BLUE]


def test_files_decode_to_the_picture():
    image = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    read = cv2.imdecode(np.frombuffer(encode_image(image), np.uint8), cv2.IMREAD_COLOR)
    assert (read[..., ::-1] == image).all()
    smooth = np.tile(np.arange(60, dtype=np.uint8)[None, :, None], (40, 1, 3))
    jpeg = cv2.imdecode(np.frombuffer(encode_image(smooth, form="jpg"), np.uint8), cv2.IMREAD_COLOR)
    assert np.abs(jpeg.astype(int) - smooth).max() <= 4
    with pytest.raises(ValueError, match="'bmp'"):
        encode_image(image, form="bmp")


@pytest.mark.parametrize(
    ("images", "projections", "sources", "message"),
    [
        (IMAGES[:5], PROJECTIONS, [TRUTH], "6 images"),
        (IMAGES, PROJECTIONS[:5], [TRUTH], "6 images"),
        (IMAGES, PROJECTIONS, [], "one to three"),
        (IMAGES, PROJECTIONS, [TRUTH] * 4, "one to three"),
    ],
)
def test_wrong_numbers_of_things_are_refused(images, projections, sources, message):
    with pytest.raises(ValueError, match=message):
        scene_image(images, lidar2img=projections, sources=sources)


def test_the_legend_names_the_sources_that_have_a_colour():
    figure = Figure(figsize=(4, 3))
    sources = [BoxSource("by class", np.zeros((0, 9)), colour=None), BoxSource("W4A6", np.zeros((0, 9)), colour=BLUE)]
    _draw_header(figure, sources=sources, title="one scene")
    [legend] = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["W4A6"]
    assert [line.get_color() for line in legend.get_lines()] == [BLUE]
