"""The HTML report: it parses, loads nothing from outside, escapes its texts, and sorts by unrounded numbers."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from qdbev.reporting.charts.curve import curve_picture
from qdbev.reporting.charts.figure import INK
from qdbev.reporting.drawings.scene import encode_image
from qdbev.reporting.html import Card, Facts, Picture, Section, html_report
from qdbev.reporting.tables.results import accuracy_table

VOID = {"meta", "img", "br", "link", "input"}
PNG = encode_image(np.full((4, 6, 3), 128, dtype=np.uint8))
SVG = curve_picture([{"step": 0, "NDS": 0.1}, {"step": 9, "NDS": 0.2}], stages=[], form="svg")
ROWS = [
    {"name": "float", "NDS": 0.40049, "mAP": 0.5},
    {"name": "<script>alert(1)</script>", "NDS": 0.3, "mAP": float("nan")},
]
SECTIONS = [
    Section("accuracy", "Accuracy", text="2 < 3 & so on", tables=(accuracy_table(ROWS, reference="float"),)),
    Section("empty", "Nothing here"),
    Section("curve", "Curve", pictures=(Picture(SVG, 'a "curve"', "below"), Picture(PNG, "a grey field"))),
    Section("provenance", "Provenance", facts=(Facts("stage 1", (("digest", "ab12"), ("seed", "0"))),)),
]
PAGE = html_report(SECTIONS, title="Report & more", subtitle="val", cards=[Card("NDS", "0.400", "100 %")])


class Reader(HTMLParser):
    """Collects elements, checks that they nest, keeps the text of cells, headings and scripts apart."""

    def __init__(self):
        super().__init__()
        self.open, self.elements, self.texts = [], [], []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip() and self.open[-1] != "style":
            self.texts.append((self.open[-1], data.strip()))


@pytest.fixture(scope="module")
def page():
    reader = Reader()
    reader.feed(PAGE)
    reader.close()
    assert reader.open == []
    return reader


def test_nothing_is_loaded_from_outside(page):
    for tag, attributes in page.elements:
        for name in ("src", "href", "xlink:href", "action", "data", "poster", "srcset"):
            address = attributes.get(name, "#")
            assert address.startswith(("#", "data:image/")), (tag, name, address)
        assert tag not in {"link", "iframe", "object", "embed"}
    assert "http" not in PAGE
    assert "@import" not in PAGE


def test_texts_are_escaped(page):
    assert [tag for tag, _ in page.elements].count("script") == 1
    assert ("td", "<script>alert(1)</script>") in page.texts
    assert ("p", "2 < 3 & so on") in page.texts
    assert ("h1", "Report & more") in page.texts


def test_empty_sections_are_left_out(page):
    assert [attributes["id"] for tag, attributes in page.elements if tag == "section"] == [
        "accuracy",
        "curve",
        "provenance",
    ]
    links = [attributes["href"] for tag, attributes in page.elements if tag == "a"]
    assert links == ["#accuracy", "#curve", "#provenance"]


def test_cells_show_rounded_numbers_and_sort_by_the_full_ones(page):
    cells = [attributes["data-value"] for tag, attributes in page.elements if tag == "td"]
    assert cells == [
        "float",
        "0.40049",
        "",
        "1.0",
        "0.5",
        ROWS[1]["name"],
        "0.3",
        str(0.3 - 0.40049),
        str(0.3 / 0.40049),
        "",
    ]
    assert [text for tag, text in page.texts if tag == "td"][:5] == ["float", "0.400", "–", "100.0 %", "0.500"]


def test_pictures_are_inside_the_page(page):
    image = next(attributes for tag, attributes in page.elements if tag == "img")
    assert base64.b64decode(image["src"].removeprefix("data:image/png;base64,")) == PNG
    assert image["alt"] == "a grey field"
    drawing = next(attributes for tag, attributes in page.elements if tag == "svg")
    assert drawing["aria-label"] == 'a "curve"'
    assert drawing["viewbox"]


def test_drawings_take_the_pages_text_colour_and_keep_their_references(page):
    assert INK in SVG.decode()
    assert INK not in PAGE
    assert "currentColor" in PAGE
    names = [attributes["id"] for tag, attributes in page.elements if "id" in attributes]
    assert len(names) == len(set(names))
    used = set(re.findall(r"url\(#([^)]+)\)", PAGE)) | set(re.findall(r'href="#([^"]+)"', PAGE))
    assert used <= set(names)


def test_two_drawings_do_not_share_names():
    other = curve_picture([{"step": 0, "NDS": 0.1}, {"step": 9, "NDS": 0.3}], stages=[], form="svg")
    page = html_report([Section("a", "A", pictures=(Picture(SVG, "one"), Picture(other, "two")))], title="T")
    names = re.findall(r' id="([^"]+)"', page)
    assert len(names) == len(set(names))


def test_a_picture_of_another_kind_is_refused():
    with pytest.raises(ValueError, match="SVG, PNG or JPEG"):
        html_report([Section("a", "A", pictures=(Picture(b"GIF89a", "x"),))], title="T")
