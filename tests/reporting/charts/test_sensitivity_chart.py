"""The chart of sensitivity: order, ranks and lengths of the bars, read back from the SVG."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import cv2
import numpy as np
import pytest

from qdbev.reporting.charts.sensitivity_chart import BLUE, COLOURS, chart_height_px, part_colours, sensitivity_picture
from qdbev.reporting.tables.results import sensitivity_table

ROWS = [
    {"name": "neck", "NDS": 0.39, "part": "neck"},
    {"name": "encoder", "NDS": 0.30, "part": "encoder"},
    {"name": "backbone", "NDS": 0.35, "part": "backbone"},
    {"name": "decoder", "NDS": 0.41, "part": "decoder"},
]


def texts_of(svg):
    return [node.text.strip() for node in ElementTree.fromstring(svg).iter() if node.text and node.text.strip()]


def test_bars_stand_in_the_order_and_with_the_ranks_of_the_table_and_gains_have_a_minus():
    rows = [{"mAP": 0.3, **row} for row in ({"name": "float", "NDS": 0.40}, *ROWS, {"name": "all", "NDS": 0.2})]
    table = sensitivity_table(rows, reference="float")
    texts = texts_of(sensitivity_picture(rows[1:], reference_nds=0.40, form="svg"))
    labels = [text.split() for text in texts if text.split()[0] in {row["name"] for row in rows[1:]}]
    assert labels[:5] == [[row["name"], str(row["rank"])] if row["rank"] else ["all"] for row in table.rows[1:]]
    assert labels[:5] == [["neck", "3"], ["encoder", "1"], ["backbone", "2"], ["decoder", "4"], ["all"]]
    values = [text for text in texts if re.fullmatch(r"−?0\.\d{3}", text)]
    assert values[-5:] == ["0.010", "0.100", "0.050", "−0.010", "0.200"]


def test_bars_are_as_long_as_the_drops():
    rows = [{"name": name, "NDS": nds} for name, nds in (("a", 0.3), ("b", 0.35), ("c", 0.375))]
    svg = sensitivity_picture(rows, reference_nds=0.40, form="svg").decode()
    bars = []
    for path in re.findall(r"<path [^>]*?/>", svg, flags=re.DOTALL):
        if f"fill: {BLUE}" in path:
            x = np.array(re.findall(r"[ML] (\S+) ", path), dtype=float)
            bars.append(x.max() - x.min())
    np.testing.assert_allclose(np.array(bars) / bars[0], [1.0, 0.5, 0.25], rtol=1e-4)


def test_only_the_worst_are_drawn_and_the_rest_is_counted():
    svg = sensitivity_picture(ROWS, reference_nds=0.40, top=1, form="svg")
    texts = texts_of(svg)
    assert "encoder   1" in texts
    assert not any("backbone" in text for text in texts)
    assert any("3 more lose less" in text for text in texts)


@pytest.mark.parametrize("count", [1, 4, 30])
def test_height_follows_from_the_number_of_bars(count):
    rows = [{"name": f"layer{index}", "NDS": 0.3, "NDS_low": -0.11, "NDS_high": -0.09} for index in range(count)]
    image = cv2.imdecode(np.frombuffer(sensitivity_picture(rows, reference_nds=0.4, width_px=700), np.uint8), 1)
    assert image.shape == (chart_height_px(count), 700, 3)


def test_the_longest_name_and_its_rank_fit_before_the_bars():
    """Two blanks and two digits follow a name, 6.1 pixels a letter, 30 before it: bars begin at 30 + 6.1 * 10."""
    rows = [{"name": "head_a", "NDS": 0.3}, {"name": "b", "NDS": 0.35}]
    svg = sensitivity_picture(rows, reference_nds=0.40, width_px=1000, form="svg").decode()
    width = float(re.search(r'viewBox="0 0 (\S+) ', svg).group(1))
    bars = [path for path in re.findall(r"<path [^>]*?/>", svg, flags=re.DOTALL) if f"fill: {BLUE}" in path]
    starts = [min(float(x) for x in re.findall(r"[ML] (\S+) ", bar)) for bar in bars]
    np.testing.assert_allclose(np.array(starts) / width * 1000, 30 + 6.1 * 10, atol=0.05)


def test_each_part_has_one_colour():
    colours = part_colours(ROWS)
    assert list(colours) == ["neck", "encoder", "backbone", "decoder"]
    assert tuple(colours.values()) == COLOURS[:4]


def test_nothing_to_draw_is_refused():
    with pytest.raises(ValueError, match="no module"):
        sensitivity_picture([], reference_nds=0.4)
