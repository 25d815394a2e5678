"""The taps of a graph whose runtime computes otherwise while they are looked at.

Where a tensor comes out, a runtime fuses fewer operators and may add in another order, so that a number near a tie
falls on the other side. What such a run shows is not what the graph computes. Looked at in parts, each of which leaves
the outputs as they are to the last bit, taps show the graph as it is shipped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor


class Runs(Protocol):
    """A graph that is loaded by some runtime."""

    def run(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Outputs, and taps, by name."""


class GroupedTaps:
    """Gives outputs and all taps; in one run where that changes no output, else in as many as it takes.

    Args:
        session: The graph without taps.
        load: Loads it with some taps.
        taps: All of them, in the order that they are computed.
    """

    def __init__(self, session: Runs, *, load: Callable[[Sequence[str]], Runs], taps: Sequence[str]) -> None:
        self._session, self._load = session, load
        self._groups = [tuple(taps)] if taps else []
        self._loaded: dict[tuple[str, ...], Runs] = {}

    def run(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Outputs, and taps, by name; the outputs differ from the graph's where one tap alone changes them."""
        outputs = self._session.run(feeds)
        seen, changed = dict(outputs), dict[str, Tensor]()
        waiting, self._groups = self._groups[::-1], []
        while waiting:
            taps = waiting.pop()
            values = self._with(taps).run(feeds)
            unchanged = all(torch.equal(values[name], value) for name, value in outputs.items())
            if not unchanged and len(taps) > 1:
                del self._loaded[taps]
                waiting += [taps[len(taps) // 2 :], taps[: len(taps) // 2]]
                continue
            self._groups.append(taps)
            seen |= {name: values[name] for name in taps}
            changed |= {} if unchanged else {name: values[name] for name in outputs}
        return seen | changed

    def _with(self, taps: tuple[str, ...]) -> Runs:
        if taps not in self._loaded:
            self._loaded[taps] = self._load(taps)
        return self._loaded[taps]
