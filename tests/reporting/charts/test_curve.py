"""The training curve: where the points, bands and lines are in the drawing, read back from the SVG and the pixels."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import cv2
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from qdbev.reporting.charts.curve import curve_picture, running_mean
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
