"""The training curve: where the points, bands and lines are in the drawing, read back from the SVG and the pixels."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import cv2
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from qdbev.reporting.charts.curve import _spread, curve_picture, running_mean
from qdbev.reporting.charts.figure import BLUE, ORANGE

POINTS = [{"step": 0, "NDS": 0.40}, {"step": 50, "NDS": 0.36}, {"step": 50, "NDS": 0.34}, {"step": 100, "NDS": 0.38}]
STAGES = [{"name": "backbone", "start": 0, "end": 50}, {"name": "neck & more", "start": 50, "end": 100}]
LOSSES = [{"step": step, "loss": 5.0 - step / 50} for step in range(100)]


def svg_of(**arguments):
    return curve_picture(POINTS, stages=STAGES, form="svg", **arguments).decode()


def line_of(svg, colour):
    """Corners (x, y) of the first polyline with this stroke colour."""
    for path in re.findall(r"<path [^>]*?/>", svg, flags=re.DOTALL):
        if f"stroke: {colour}" in path:
            return np.array(re.findall(r"[ML] (\S+) (\S+)", path), dtype=float)
    raise AssertionError(f"no line of colour {colour}")


def test_png_has_the_size_asked_for():
    data = curve_picture(POINTS, stages=STAGES, losses=LOSSES, float_nds=0.41, width_px=640, height_px=300)
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert image.shape == (300, 640, 3)
    blue = np.array(to_rgb(BLUE))[::-1] * 255
    assert (np.abs(image - blue).max(axis=-1) < 12).sum() > 300


def test_the_line_runs_through_the_points_in_proportion():
    corners = line_of(svg_of(), BLUE)
    assert corners.shape == (4, 2)
    x, y = corners[:, 0], corners[:, 1]
    assert x[1] == x[2]
    assert (x[1] - x[0]) / (x[3] - x[0]) == pytest.approx(0.5, abs=1e-3)
    heights = (y[2] - y) / (y[2] - y[0])  # the lowest score is 0.34, the first is 0.40
    np.testing.assert_allclose(heights, [1.0, 1 / 3, 0.0, 2 / 3], atol=1e-3)


def test_the_panel_reaches_from_the_first_step_to_the_end_of_the_last_stage():
    """A picture 1000 wide has its panel from 84 to 900: 120 steps, and 0.8 % of them before and behind as air."""
    stages = [STAGES[0], {"name": "neck", "start": 50, "end": 120}]
    svg = curve_picture(POINTS, stages=stages, form="svg", width_px=1000).decode()
    width = float(re.search(r'viewBox="0 0 (\S+) ', svg).group(1))
    x = line_of(svg, BLUE)[:, 0] / width * 1000
    step = 816 / (1.016 * 120)
    np.testing.assert_allclose(x[[0, -1]], [84 + 0.96 * step, 84 + 100.96 * step], atol=0.01)


def test_the_float_line_is_level_and_in_place():
    svg = svg_of(float_nds=0.37)
    level, scores = line_of(svg, ORANGE), line_of(svg, BLUE)
    assert level[0, 1] == level[1, 1]
    assert level[0, 1] == pytest.approx((scores[0, 1] + scores[2, 1]) / 2, abs=1e-3)


def test_names_and_values_stand_in_the_picture():
    texts = [node.text for node in ElementTree.fromstring(svg_of(float_nds=0.37, losses=LOSSES)).iter() if node.text]
    for expected in ("backbone", "neck & more", "float 0.370", "0.380", "NDS", "loss"):
        assert expected in texts
    assert "loss" not in [node.text for node in ElementTree.fromstring(svg_of()).iter()]


def test_the_same_numbers_give_the_same_bytes():
    for form in ("svg", "png"):
        first, second = (curve_picture(POINTS, stages=STAGES, losses=LOSSES, form=form) for _ in range(2))
        assert first == second


def test_running_mean_over_three():
    assert running_mean([3.0, 6.0, 9.0, 0.0], window=3).tolist() == [3.0, 4.5, 6.0, 5.0]
    assert running_mean([], window=3).tolist() == []


def test_one_point_alone_can_be_drawn_and_none_is_refused():
    assert curve_picture(POINTS[:1], stages=[]).startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="no evaluation"):
        curve_picture([], stages=STAGES)


def test_names_of_narrow_stages_stand_in_lines_of_their_own():
    names = ["backbone", "neck", "encoder", "decoder", "QAT+VGD"]
    stages = [{"name": name, "start": 2 * at, "end": 2 * at + 2} for at, name in enumerate(names)]
    stages[-1]["end"] = 100
    svg = curve_picture(POINTS, stages=stages, form="svg").decode()
    found = {text: (float(x), float(y)) for text, x, y in labels_of(svg) if text in names}
    assert list(found) == names
    for one in names:
        for other in names[names.index(one) + 1 :]:
            width = 3.3 * (len(one) + len(other))  # half a width of each, in points of the SVG
            (x, y), (right, below) = found[one], found[other]
            assert abs(x - right) >= width or abs(y - below) >= 9, (one, other)
            assert min(y, below) > 9  # inside the picture


def test_names_at_the_right_edge_that_would_overlap_move_apart_around_their_middle():
    at_the_edge = [(0.500, "W4A6", BLUE, "bold"), (0.501, "float", ORANGE, "normal")]
    assert _spread(at_the_edge, span=0.1) == pytest.approx([0.4970, 0.5040])
    assert _spread(at_the_edge[::-1], span=0.1) == pytest.approx([0.5040, 0.4970])
    assert _spread(at_the_edge, span=0.01) == [0.500, 0.501]  # far enough


def labels_of(svg):
    """Texts of a drawing with where they stand, their middles as x."""
    return [
        (text, x, y)
        for x, y, text in re.findall(
            r'<text style="[^"]*text-anchor: middle[^"]*"[^>]*x="([\d.]+)" y="([\d.]+)"[^>]*>([^<]+)</text>', svg
        )
    ]


def test_the_band_reaches_from_the_lowest_to_the_highest_score_that_the_interval_allows():
    banded = [point | {"NDS_low": -0.05, "NDS_high": 0.01} for point in POINTS[1:]]
    plain, drawn = (
        curve_picture(points, stages=STAGES, float_nds=0.41, form="svg").decode()
        for points in (POINTS, [POINTS[0], *banded])
    )
    assert plain.count("fill-opacity: 0.15") + 1 == drawn.count("fill-opacity: 0.15")
    scores, level = line_of(drawn, BLUE), line_of(drawn, ORANGE)[0, 1]
    pixels = (scores[2, 1] - scores[0, 1]) / 0.06  # the lowest score is 0.34, the first 0.40
    drawing = drawn[drawn.index("PolyCollection") :]
    heights = np.array(re.findall(r"[ML] \S+ (\S+)", re.search(r"<path [^>]*>", drawing)[0]), float)
    heights += float(re.search(r'<use [^>]*y="(\S+)"', drawing)[1])
    assert heights.max() == pytest.approx(level + 0.05 * pixels, abs=0.1)
    assert heights.min() == pytest.approx(level - 0.01 * pixels, abs=0.1)
