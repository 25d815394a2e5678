"""Taps that change what a graph computes are looked at apart, and one that does so alone is not hidden."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from qdbev.export.onnx.gate.grouped_taps import GroupedTaps

TAPS = ["a", "b", "c", "d", "e"]


class Fusing:
    """Counts; takes another sum where it cannot fuse: where both taps of a pair come out, or a bad one."""

    def __init__(self, taps: Sequence[str] = (), *, pair: tuple[str, str] = ("b", "d"), bad: str = "") -> None:
        self.taps, self.other = taps, set(pair) <= set(taps) or bad in taps

    def run(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        moved = float(self.other and feeds["x"] > 0)
        return {"y": feeds["x"] + moved, **{name: feeds["x"] + TAPS.index(name) + moved for name in self.taps}}


def grouped(**fuses: object) -> tuple[GroupedTaps, list[Sequence[str]]]:
    loaded: list[Sequence[str]] = []

    def load(taps: Sequence[str]) -> Fusing:
        loaded.append(taps)
        return Fusing(taps, **fuses)  # type: ignore[arg-type]

    return GroupedTaps(Fusing(), load=load, taps=TAPS), loaded


def right(x: Tensor) -> dict[str, Tensor]:
    return {"y": x, **{name: x + number for number, name in enumerate(TAPS)}}


def test_one_run_where_nothing_changes() -> None:
    taps, loaded = grouped(pair=("a", "z"))
    assert taps.run({"x": torch.tensor(1.0)}) == right(torch.tensor(1.0))
    assert loaded == [tuple(TAPS)]


def test_a_pair_that_changes_the_outputs_is_looked_at_apart() -> None:
    taps, loaded = grouped()
    assert taps.run({"x": torch.tensor(-1.0)}) == right(torch.tensor(-1.0))  # not in this frame
    for _ in range(2):
        assert taps.run({"x": torch.tensor(2.0)}) == right(torch.tensor(2.0))
    assert loaded == [tuple(TAPS), ("a", "b"), ("c", "d", "e")]  # once, kept for later frames


def test_a_tap_that_changes_them_alone_shows_in_the_outputs() -> None:
    taps, _ = grouped(pair=("y", "z"), bad="c")
    seen = taps.run({"x": torch.tensor(2.0)})
    assert seen["y"] == 3.0 and {name: seen[name] for name in "abde"} == {"a": 2.0, "b": 3.0, "d": 5.0, "e": 6.0}


def test_a_graph_without_taps_gives_its_outputs() -> None:
    assert GroupedTaps(Fusing(), load=Fusing, taps=[]).run({"x": torch.tensor(2.0)}) == {"y": 2.0}
