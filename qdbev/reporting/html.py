"""The report as one self-contained HTML file: tables, inline SVG, embedded images; it loads nothing from anywhere."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from qdbev.reporting.charts.figure import INK
from qdbev.reporting.tables.rounding import is_missing
from qdbev.reporting.tables.table import Column, Row, Table

MEDIA_TYPES = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg"}


@dataclass(frozen=True)
class Card:
    """One number of the summary at the top: what it is, the number, and what to hold it against."""

    label: str
    value: str
    detail: str = ""


@dataclass(frozen=True)
class Picture:
    """A picture file.

    Attributes:
        data: bytes of an SVG, PNG or JPEG file.
        description: what it shows, for readers who do not see it.
        caption: the line below.
    """

    data: bytes
    description: str
    caption: str = ""


@dataclass(frozen=True)
class Facts:
    """A list of names and values, such as the digests of one artifact."""

    title: str
    entries: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading of its own.

    Attributes:
        name: its address in the page ("accuracy").
        title: heading; a table with the same title gets no second one.
        text: a paragraph below the heading.
        tables: sortable tables.
        pictures: pictures below the tables.
        facts: lists of names and values at the end.
    """

    name: str
    title: str
    text: str = ""
    tables: tuple[Table, ...] = field(default=())
    pictures: tuple[Picture, ...] = field(default=())
    facts: tuple[Facts, ...] = field(default=())


def html_report(sections: Sequence[Section], *, title: str, subtitle: str = "", cards: Sequence[Card] = ()) -> str:
    """Writes the page. Sections without content are left out.

    Args:
        sections: In the order of the page.
        title: Heading of the page.
        subtitle: A line below it.
        cards: The summary at the top.

    Returns:
        An HTML document; every text in it is escaped.

    Raises:
        ValueError: a picture is neither SVG, PNG nor JPEG.
    """
    environment = Environment(
        loader=PackageLoader("qdbev.reporting", package_path=""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filled = [section for section in sections if section.tables or section.pictures or section.facts or section.text]
    return environment.get_template("report.html.j2").render(
        title=title, subtitle=subtitle, cards=cards, sections=filled, sort_value=sort_value, embedded=embedded
    )


def sort_value(row: Row, column: Column) -> Any:
    """What a cell is sorted by: its number or text at full precision, empty where it is not known."""
    value = row.get(column.key)
    return "" if is_missing(value) else value


def embedded(picture: Picture) -> Markup:
    """The picture as HTML: SVG becomes part of the page and takes its text colour, images become data addresses.

    Raises:
        ValueError: the bytes are neither SVG, PNG nor JPEG.
    """
    head = picture.data[:512].lstrip()
    if head.startswith((b"<?xml", b"<svg")):
        return _inline_svg(picture)
    media = next((media for start, media in MEDIA_TYPES.items() if head.startswith(start)), None)
    if media is None:
        raise ValueError(f"a picture must be SVG, PNG or JPEG; this one starts with {picture.data[:8]!r}")
    address = f"data:{media};base64,{base64.b64encode(picture.data).decode('ascii')}"
    return Markup('<img alt="{}" src="{}">').format(picture.description, address)


def _inline_svg(picture: Picture) -> Markup:
    """The drawing without the head of its file, with a description, and with ``currentColor`` for the figures' ink.

    Names inside the drawing get a prefix, so that those of two drawings do not meet in one page. The pictures are the
    project's own (figure.py); an SVG from elsewhere would be embedded as it is, scripts included.
    """
    text = picture.data.decode("utf-8")
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text)  # inside HTML the namespaces are known
    prefix = f"p{hashlib.sha256(picture.data).hexdigest()[:8]}-"
    text = re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{prefix}", text)
    start = f'<svg role="img" aria-label="{escape(picture.description)}"'
    return Markup(start + text[len("<svg") :])
