"""A page of SVG: boxes, text and arrows with rounded corners, written the same every time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

INK, QUIET, LINE, PAPER = "#1f2933", "#52606d", "#7b8794", "#ffffff"
FONT = "Inter, 'Segoe UI', Helvetica, Arial, 'DejaVu Sans', sans-serif"
CORNER_PX = 7.0
Point = tuple[float, float]


@dataclass(frozen=True)
class Box:
    """A rectangle on the page [px]."""

    x: float
    y: float
    width: float
    height: float

    @property
    def right(self) -> float:
        """The x of the right edge."""
        return self.x + self.width

    @property
    def bottom(self) -> float:
        """The y of the lower edge."""
        return self.y + self.height

    @property
    def middle(self) -> float:
        """The x of the middle."""
        return self.x + self.width / 2

    @property
    def centre(self) -> float:
        """The y of the middle."""
        return self.y + self.height / 2


class Page:
    """Collects shapes, in the order in which they cover each other."""

    def __init__(self) -> None:
        self._shapes: list[str] = []

    def box(self, box: Box, *, fill: str, edge: str, radius: float = 6, dashed: bool = False) -> None:
        """Draw a rounded rectangle."""
        place = f'x="{box.x:.1f}" y="{box.y:.1f}" width="{box.width:.1f}" height="{box.height:.1f}" rx="{radius:g}"'
        dashes = ' stroke-dasharray="3 3"' if dashed else ""
        self._shapes.append(f'<rect {place} fill="{fill}" stroke="{edge}"{dashes}/>')

    def text(
        self, at: Point, words: str, *, size: float = 11, fill: str = INK, bold: bool = False, anchor: str = "start"
    ) -> None:
        """Write one line; ``at`` is its baseline."""
        weight = ' font-weight="600"' if bold else ""
        place = f'x="{at[0]:.1f}" y="{at[1]:.1f}" font-size="{size:g}" text-anchor="{anchor}"'
        self._shapes.append(f'<text {place} fill="{fill}"{weight}>{escape(words)}</text>')

    def arrow(self, points: Sequence[Point], *, colour: str = LINE, width: float = 1.3) -> None:
        """Draw a line through the points with a head at its end; its corners are round."""
        steps = [f"M {points[0][0]:.1f} {points[0][1]:.1f}"]
        for before, corner, after in zip(points, points[1:], points[2:], strict=False):
            start, end = _towards(corner, before), _towards(corner, after)
            steps.append(f"L {start[0]:.1f} {start[1]:.1f} Q {corner[0]:.1f} {corner[1]:.1f} {end[0]:.1f} {end[1]:.1f}")
        head, base = _head(points[-2], points[-1], size=5 + 2 * width)
        steps.append(f"L {base[0]:.1f} {base[1]:.1f}")
        self._shapes.append(f'<path d="{" ".join(steps)}" fill="none" stroke="{colour}" stroke-width="{width:g}"/>')
        corners = " ".join(f"{x:.1f},{y:.1f}" for x, y in head)
        self._shapes.append(f'<polygon points="{corners}" fill="{colour}"/>')

    def svg(self, *, width: float, height: float, title: str) -> str:
        """Return the whole file."""
        size = f'width="{width:g}" height="{height:g}" viewBox="0 0 {width:g} {height:g}"'
        return "\n".join(
            (
                f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="{FONT}" role="img">',
                f"<title>{escape(title)}</title>",
                *self._shapes,
                "</svg>",
                "",
            )
        )


def _towards(corner: Point, neighbour: Point) -> Point:
    """Give the point a corner's radius away from it, or half-way where the next corner is near."""
    dx, dy = neighbour[0] - corner[0], neighbour[1] - corner[1]
    length = max(abs(dx) + abs(dy), 1e-9)
    share = min(CORNER_PX / length, 0.5)
    return corner[0] + dx * share, corner[1] + dy * share


def _head(before: Point, tip: Point, *, size: float) -> tuple[tuple[Point, Point, Point], Point]:
    """Give the triangle at the end of an arrow, and the middle of the side where its line ends."""
    dx, dy = tip[0] - before[0], tip[1] - before[1]
    length = math.hypot(dx, dy)
    dx, dy = dx / length * size, dy / length * size
    base = (tip[0] - dx, tip[1] - dy)
    return (tip, (base[0] - 0.42 * dy, base[1] + 0.42 * dx), (base[0] + 0.42 * dy, base[1] - 0.42 * dx)), base


def text_width(words: str, *, size: float = 11, bold: bool = False) -> float:
    """Estimate the width of a line [px]: no font is asked, so the drawing is the same on every machine."""
    narrow = sum(letter in "iljt.,| " for letter in words)
    wide = sum(letter in "mwMW" for letter in words)
    return size * (0.6 if bold else 0.565) * (len(words) - 0.45 * narrow + 0.4 * wide)


def wrapped(words: Sequence[str], *, width: float, size: float, between: str = "  ·  ") -> list[str]:
    """Break words into lines no wider than ``width``; a longer word has a line of its own."""
    lines: list[str] = []
    for word in words:
        longer = f"{lines[-1]}{between}{word}" if lines else word
        if lines and text_width(longer, size=size) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
