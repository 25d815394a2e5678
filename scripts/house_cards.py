"""Cards of the house's drawing: how a room looks, how much place it asks for, and how rooms stand on floors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from house import Room
from svg_page import INK, LINE, PAPER, QUIET, Box, Page, text_width, wrapped

COLOURS = {
    "data": "#2f7d8c",
    "detectors": "#b4532a",
    "distillation": "#8a4f9e",
    "engine": "#5a6b7b",
    "evaluation": "#94702a",
    "quantization": "#2f6db3",
    "reporting": "#4f8a3c",
    "ops": "#7a5a4a",
    "export": "#a03c5c",
    "zoo": "#6a6a3a",
    "profiles": "#c08a1e",
}
BETWEEN_PX, ROW_GAP_PX, WIDE_PX = 10.0, 18.0, 400.0


class Card(Protocol):
    """How a room is drawn."""

    def width(self, room: Room) -> float:
        """What it asks for [px]."""

    def height(self, room: Room, *, width: float) -> float:
        """What it takes at this width [px]."""

    def draw(self, page: Page, room: Room, *, box: Box) -> None:
        """Draw it into its box."""


@dataclass(frozen=True)
class Chip:
    """A name and the number of modules inside; a module has a quieter edge than a room."""

    edge: str

    def width(self, room: Room) -> float:
        """The words and their margins."""
        return text_width(_counted(room), size=10.5) + 12

    def height(self, room: Room, *, width: float) -> float:
        """One line."""
        return 20

    def draw(self, page: Page, room: Room, *, box: Box) -> None:
        """Draw it into its box."""
        page.box(box, fill=PAPER, edge=self.edge if room.floors else "#d5dbe1", radius=4)
        fill = INK if room.floors else QUIET
        page.text((box.middle, box.y + 14), _counted(room), size=10.5, fill=fill, anchor="middle")


@dataclass(frozen=True)
class Shelf:
    """A room of ``pipelines``: its modules, and the rooms of the library that it imports as coloured labels."""

    edge: str

    def width(self, room: Room) -> float:
        """All shelves of a floor are equally wide."""
        return 1

    def height(self, room: Room, *, width: float) -> float:
        """The title with its labels, then the modules."""
        return 32 + 14 * len(self._modules(room, width=width))

    def draw(self, page: Page, room: Room, *, box: Box) -> None:
        """Draw it into its box."""
        page.box(box, fill=PAPER, edge=self.edge)
        page.text((box.x + 12, box.y + 20), room.title, size=13, bold=True)
        right = box.right - 10
        for name in reversed(room.uses):
            width = text_width(name, size=9.5) + 12
            label = Box(right - width, box.y + 8, width, 16)
            page.box(label, fill=COLOURS.get(name, QUIET), edge="none", radius=8)
            page.text((label.middle, label.y + 11.5), name, size=9.5, fill=PAPER, anchor="middle")
            right = label.x - 4
        for number, line in enumerate(self._modules(room, width=box.width)):
            page.text((box.x + 12, box.y + 38 + 14 * number), line, size=11, fill=QUIET)

    def _modules(self, room: Room, *, width: float) -> list[str]:
        names = sorted(child.title for child in room.children)
        return wrapped(names, width=width - 24, size=11)


@dataclass(frozen=True)
class Cabinet:
    """A room of the library: its own rooms on their floors, or its modules in a list."""

    lines_px: float = 13.5

    def width(self, room: Room) -> float:
        """The widest floor, or the widest module."""
        title = text_width(room.title, size=13, bold=True)
        if room.is_flat:
            return max(title, *(text_width(child.title) for child in room.children)) + 20
        floors = (sum(Chip("").width(child) + BETWEEN_PX for child in floor) for floor in room.floors)
        return max(title, *floors) + 14

    def height(self, room: Room, *, width: float) -> float:
        """The title, then the floors or the list."""
        if room.is_flat:
            return 36 + self.lines_px * len(self._lines(room, width=width))
        return placed(room, inside=self._inside(Box(0, 0, width, 0)), card=Chip("")).bottom + 12

    def draw(self, page: Page, room: Room, *, box: Box) -> None:
        """Draw it into its box."""
        colour = COLOURS.get(room.title, QUIET)
        page.box(box, fill=PAPER, edge=colour)
        page.text((box.middle, box.y + 19), room.title, size=13, fill=colour, bold=True, anchor="middle")
        if room.is_flat:
            for number, line in enumerate(self._lines(room, width=box.width)):
                page.text((box.middle, box.y + 37 + self.lines_px * number), line, size=11, fill=QUIET, anchor="middle")
        else:
            draw_floors(page, room, inside=self._inside(box), card=Chip(colour))

    def _inside(self, box: Box) -> Box:
        return Box(box.x + 12, box.y + 30, box.width - 24, box.height - 42)

    def _lines(self, room: Room, *, width: float) -> list[str]:
        """One module a line; side by side where the room is as wide as a floor."""
        names = sorted(child.title for child in room.children)
        return wrapped(names, width=width - 20, size=11) if width > WIDE_PX else names


@dataclass(frozen=True)
class Placing:
    """Where the children of a room stand."""

    boxes: dict[str, Box]
    rows: dict[str, int]
    bottom: float


def placed(room: Room, *, inside: Box, card: Card, row_gap: float = ROW_GAP_PX) -> Placing:
    """Stand the children on their floors; a floor that is too full goes on in the next row."""
    boxes: dict[str, Box] = {}
    rows: dict[str, int] = {}
    y = inside.y
    lines = [line for floor in room.floors for line in _lines_of(floor, width=inside.width, card=card)]
    for number, line in enumerate(lines):
        asked = [card.width(child) for child in line]
        stretch = (inside.width - BETWEEN_PX * (len(line) - 1)) / sum(asked)
        widths = [width * stretch for width in asked]
        height = max(card.height(child, width=width) for child, width in zip(line, widths, strict=True))
        x = inside.x
        for child, width in zip(line, widths, strict=True):
            boxes[child.name], rows[child.name] = Box(x, y, width, height), number
            x += width + BETWEEN_PX
        y += height + row_gap
    return Placing(boxes, rows=rows, bottom=y - row_gap)


def _lines_of(floor: Sequence[Room], *, width: float, card: Card) -> list[list[Room]]:
    lines: list[list[Room]] = [[]]
    for child in floor:
        taken = sum(card.width(other) + BETWEEN_PX for other in lines[-1])
        if lines[-1] and taken + card.width(child) > width + 1:
            lines.append([])
        lines[-1].append(child)
    return lines


def draw_floors(
    page: Page, room: Room, *, inside: Box, card: Card, row_gap: float = ROW_GAP_PX, colour: str = LINE
) -> None:
    """Draw the children of a room and the arrows between them."""
    placing = placed(room, inside=inside, card=card, row_gap=row_gap)
    left, right = inside.x - 3, inside.right + 3
    for start, end in sorted(room.arrows):
        above, below = placing.boxes[start], placing.boxes[end]
        if placing.rows[end] == placing.rows[start] + 1:
            page.arrow(_straight(above, below), colour=colour)
        elif below.x == inside.x == above.x and below.right < inside.right:
            left -= 5
            page.arrow([(above.x, above.centre), (left, above.centre), (left, below.centre), (below.x, below.centre)])
        else:
            right += 5
            page.arrow(
                [(above.right, above.centre), (right, above.centre), (right, below.centre), (below.right, below.centre)]
            )
    for child in room.children:
        card.draw(page, child, box=placing.boxes[child.name])


def _straight(above: Box, below: Box) -> list[tuple[float, float]]:
    """Go down where both boxes overlap, else by a step between the floors."""
    left, right = max(above.x, below.x), min(above.right, below.right)
    if right - left > 8:
        return [((left + right) / 2, above.bottom), ((left + right) / 2, below.y)]
    half = (above.bottom + below.y) / 2
    return [(above.middle, above.bottom), (above.middle, half), (below.middle, half), (below.middle, below.y)]


def _counted(room: Room) -> str:
    return f"{room.title} · {len(room.children)}" if room.floors else room.title
