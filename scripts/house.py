"""The house as its imports say it: packages, their rooms, the floor of each room, and which room imports which."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from graphlib import TopologicalSorter
from itertools import product
from pathlib import Path

import grimp

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("qdbev_cli", "pipelines", "qdbev", "profiles")
DEPTH = 2  # floors of packages and of their rooms; what lies deeper is listed

Arrows = frozenset[tuple[str, str]]


@dataclass(frozen=True)
class Room:
    """A package, a room of it, or a module. Its children stand on floors, above the children that they import."""

    name: str
    """The whole import name."""
    floors: tuple[tuple[Room, ...], ...] = ()
    """Children from the highest floor down, in alphabetical order on each; empty for a module."""
    arrows: Arrows = frozenset()
    """Which child imports which, without arrows that a way through other children says already."""
    uses: tuple[str, ...] = ()
    """Rooms of the library, and ``profiles``, that it imports from outside its own package."""

    @property
    def title(self) -> str:
        """The last word of the name."""
        return self.name.rpartition(".")[2]

    @property
    def children(self) -> tuple[Room, ...]:
        """All children, from the highest floor down."""
        return tuple(room for floor in self.floors for room in floor)

    @property
    def is_flat(self) -> bool:
        """Whether it holds modules alone, no room."""
        return not any(child.floors for child in self.children)


def read_house() -> Room:
    """Read the imports of the four packages; ValueError where children of one room go in circles."""
    sys.path.insert(0, str(ROOT))  # these packages, whichever are installed
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    return _room("", children=PACKAGES, graph=graph)


def _room(name: str, *, children: Iterable[str], graph: grimp.ImportGraph) -> Room:
    """Build a room whose children have these names."""
    rooms = {child: _room(child, children=_children(child, graph=graph), graph=graph) for child in sorted(children)}
    arrows = _arrows(rooms, graph=graph) if name.count(".") < DEPTH else frozenset()
    heights = _heights(rooms, arrows=arrows)
    floors = [
        tuple(rooms[child] for child in rooms if heights[child] == height)
        for height in sorted(set(heights.values()), reverse=True)
    ]
    return Room(name, floors=tuple(floors), arrows=_without_detours(arrows), uses=_uses(name, graph=graph))


def _children(name: str, *, graph: grimp.ImportGraph) -> set[str]:
    return {child for child in graph.find_children(name) if not child.endswith("__main__")}


def _arrows(rooms: Iterable[str], *, graph: grimp.ImportGraph) -> Arrows:
    pairs = product(rooms, rooms)
    return frozenset((above, below) for above, below in pairs if above != below and _imports(above, below, graph=graph))


def _imports(above: str, below: str, *, graph: grimp.ImportGraph) -> bool:
    """Whether something in one room imports something in another directly."""
    inside = {below, *graph.find_descendants(below)}
    modules = {above, *graph.find_descendants(above)}
    return any(graph.find_modules_directly_imported_by(module) & inside for module in modules)


def _heights(rooms: Iterable[str], *, arrows: Arrows) -> dict[str, int]:
    """Give the floor of each room: one above the highest that it imports; strangers stand above all."""
    below = {room: {end for start, end in arrows if start == room} for room in rooms}
    heights: dict[str, int] = {}
    for room in TopologicalSorter(below).static_order():
        heights[room] = 1 + max((heights[end] for end in below[room]), default=-1)
    known = {room for arrow in arrows for room in arrow}
    above = 1 + max(heights.values(), default=0)
    return {room: height if room in known else above for room, height in heights.items()}


def _without_detours(arrows: Arrows) -> Arrows:
    """Leave out the arrows whose end can be reached from their start by others."""
    reached = set(arrows)
    for middle in {end for _, end in arrows}:
        starts = {start for start, end in reached if end == middle}
        ends = {end for start, end in reached if start == middle}
        reached |= set(product(starts, ends))
    stations = {room for arrow in arrows for room in arrow}
    return frozenset(
        (start, end)
        for start, end in arrows
        if not any((start, station) in reached and (station, end) in reached for station in stations)
    )


def _uses(name: str, *, graph: grimp.ImportGraph) -> tuple[str, ...]:
    """Name rooms of other packages that a room imports."""
    if not name:
        return ()
    modules = {name, *graph.find_descendants(name)}
    imported = {end for module in modules for end in graph.find_modules_directly_imported_by(module)}
    rooms = {end.split(".")[1] for end in imported if end.startswith("qdbev.")}
    profiles = {"profiles"} & {end.split(".")[0] for end in imported}
    return () if name.split(".")[0] in ("qdbev", "profiles") else (*sorted(rooms), *profiles)
