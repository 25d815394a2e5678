"""The Pareto picture, read back from the SVG."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest

from qdbev.reporting.charts.pareto_chart import pareto_picture

POINTS = [{"share": 0.08, "loss": 9.0}, {"share": 0.125, "loss": 2.0}, {"share": 0.25, "loss": 0.1}]
UNIFORM = [{"name": "W4A6", "share": 0.125, "loss": 14.0}, {"name": "W8A6", "share": 0.25, "loss": 0.1}]


def texts_of(svg):
    return [node.text.strip() for node in ElementTree.fromstring(svg).iter() if node.text and node.text.strip()]


def test_uniform_bits_are_named_and_the_axes_say_what_is_shared():
    texts = texts_of(pareto_picture(POINTS, chosen=POINTS[1], uniform=UNIFORM, resource="bops", form="svg"))
    assert {"W4A6", "W8A6", "mixed bits", "chosen"} <= set(texts)
    assert "bit operations as a share of the float model's" in texts
    texts = texts_of(pareto_picture(POINTS, chosen=POINTS[1], resource="latency", form="svg"))
    assert "measured latency as a share of that of the widest bits" in texts


def test_the_line_falls_from_left_to_right():
    svg = ElementTree.fromstring(pareto_picture(POINTS, chosen=POINTS[1], form="svg"))
    strokes = [node for node in svg.iter() if node.tag.endswith("path") and "stroke: #2f6fde" in node.get("style", "")]
    lines = [node.get("d") for node in strokes if "C" not in node.get("d") and node.get("d").count("L") == 2]
    numbers = [[float(one) for one in line.replace("M", "").replace("L", "").split()] for line in lines]
    x, y = max(([each[0::2], each[1::2]] for each in numbers), key=lambda pair: pair[0][-1] - pair[0][0])
    assert x == sorted(x) and y == sorted(y)  # down the page is down the axis


def test_pictures_are_the_same_at_every_run():
    assert pareto_picture(POINTS, chosen=POINTS[0]) == pareto_picture(POINTS, chosen=POINTS[0])


def test_a_loss_of_zero_is_drawn_without_a_logarithm():
    points = [*POINTS, {"share": 0.3, "loss": 0.0}]
    assert pareto_picture(points, chosen=points[-1]).startswith(b"\x89PNG")


def test_nothing_to_draw_and_an_unknown_form_are_refused():
    with pytest.raises(ValueError, match="no front to draw"):
        pareto_picture([], chosen=POINTS[0])
    with pytest.raises(ValueError, match="gif"):
        pareto_picture(POINTS, chosen=POINTS[0], form="gif")
