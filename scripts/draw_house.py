"""Draw docs/images/house.svg from the imports of the four packages: rooms stacked by floor, arrows between them.

python scripts/draw_house.py          # or: make house
python scripts/draw_house.py --check  # fails where the drawing in the tree is another
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from house import Room, read_house
from house_cards import Cabinet, Card, Chip, Shelf, draw_floors, placed
from svg_page import INK, PAPER, QUIET, Box, Page, text_width

PICTURE = Path(__file__).resolve().parent.parent / "docs" / "images" / "house.svg"
TITLE = "The house, drawn from its imports"
WIDTH_PX, MARGIN_PX, GAP_PX, PROFILES_PX, HEAD_PX = 1240.0, 24.0, 34.0, 300.0, 34.0
FOOT_PX, BETWEEN_FRAMES_PX = 16.0, 20.0
WORDS = {"qdbev_cli": "the door", "pipelines": "in which order", "qdbev": "how", "profiles": "what"}
GROUND = {"qdbev_cli": "#f4f0fa", "pipelines": "#edf3fa", "qdbev": "#eef6f0", "profiles": "#fcf5e6"}
EDGE = {"qdbev_cli": "#8a63c7", "pipelines": "#3f7cc4", "qdbev": "#3f9a5c", "profiles": "#c08a1e"}


def main() -> int:
    """Write the picture, or compare it with the one in the tree."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; 1 where the picture in the tree differs")
    check = parser.parse_args().check
    picture = draw(read_house())
    if not check:
        PICTURE.write_text(picture, encoding="utf-8")
    elif not PICTURE.is_file() or PICTURE.read_text(encoding="utf-8") != picture:
        print("docs/images/house.svg is not what the imports give: run `make house`", file=sys.stderr)
        return 1
    return 0


def draw(house: Room) -> str:
    """Return the SVG: the door above, the pipelines below it, the library and the profiles at the bottom."""
    packages = {package.title: package for package in house.children}
    page, full = Page(), WIDTH_PX - 2 * MARGIN_PX
    door = _framed(packages["qdbev_cli"], at=(MARGIN_PX, 58), width=full)
    tower = _framed(packages["pipelines"], at=(MARGIN_PX, door.bottom + GAP_PX), width=full)
    ground, split = tower.bottom + GAP_PX, full - PROFILES_PX - BETWEEN_FRAMES_PX
    library = _framed(packages["qdbev"], at=(MARGIN_PX, ground), width=split)
    profiles = _framed(packages["profiles"], at=(library.right + BETWEEN_FRAMES_PX, ground), width=PROFILES_PX)
    height = max(library.height, profiles.height)
    frames = {
        "qdbev_cli": door,
        "pipelines": tower,
        "qdbev": Box(library.x, library.y, library.width, height),
        "profiles": Box(profiles.x, profiles.y, profiles.width, height),
    }
    page_height = ground + height + MARGIN_PX
    page.box(Box(0, 0, WIDTH_PX, page_height), fill=PAPER, edge="none", radius=10)
    _legend(page)
    for name, frame in frames.items():
        page.box(frame, fill=GROUND[name], edge=EDGE[name], radius=9)
        _heading(page, name, frame=frame)
    for above, below in sorted(house.arrows):
        x = frames[below].middle
        page.arrow([(x, frames[above].bottom), (x, frames[below].y)], colour=INK, width=2)
    for name, frame in frames.items():
        _draw_floors_of(page, packages[name], frame=frame)
    return page.svg(width=WIDTH_PX, height=page_height, title=TITLE)


def _card(name: str) -> tuple[Card, float, float]:
    """How the rooms of a package look, the least place between floors, and the gutters for arrows beside them."""
    if name == "pipelines":
        return Shelf(EDGE[name]), 22, 22
    return (Cabinet(), 24, 14) if name == "qdbev" else (Chip(EDGE[name]), 18, 22)


def _inside(frame: Box, *, gutter: float) -> Box:
    return Box(frame.x + gutter, frame.y + HEAD_PX, frame.width - 2 * gutter, frame.height - HEAD_PX - FOOT_PX)


def _framed(package: Room, *, at: tuple[float, float], width: float) -> Box:
    """Return the frame of a package: as high as its floors are."""
    card, gap, gutter = _card(package.title)
    frame = Box(*at, width, 0)
    placing = placed(package, inside=_inside(frame, gutter=gutter), card=card, row_gap=gap)
    return Box(frame.x, frame.y, frame.width, placing.bottom - frame.y + FOOT_PX)


def _draw_floors_of(page: Page, package: Room, *, frame: Box) -> None:
    """Draw the floors of a package, as far apart as fills the frame."""
    card, gap, gutter = _card(package.title)
    inside = _inside(frame, gutter=gutter)
    placing = placed(package, inside=inside, card=card, row_gap=gap)
    gap += (inside.bottom - placing.bottom) / max(max(placing.rows.values()), 1)
    draw_floors(page, package, inside=inside, card=card, row_gap=gap)


def _heading(page: Page, name: str, *, frame: Box) -> None:
    page.text((frame.x + 14, frame.y + 23), name, size=15, fill=EDGE[name], bold=True)
    page.text((frame.x + 26 + text_width(name, size=15, bold=True), frame.y + 23), WORDS[name], size=12, fill=QUIET)


def _legend(page: Page) -> None:
    page.text((MARGIN_PX, 32), TITLE, size=19, bold=True)
    words = (
        "An arrow points at what is imported; one that others imply is left out. "
        "Labels: rooms of the library that a room imports. · n: modules inside."
    )
    page.text((WIDTH_PX - MARGIN_PX, 32), words, size=11, fill=QUIET, anchor="end")


if __name__ == "__main__":
    sys.exit(main())
