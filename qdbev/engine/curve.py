"""The curve of a training: rows of means since the last row, free of times, and resumable in mid-window."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

Row = dict[str, float]


class Curve:
    """Collects values of steps and makes rows of them.

    >>> curve = Curve()
    >>> curve.add({"loss": 4.0}); curve.add({"loss": 2.0, "rare": 1.0})
    >>> curve.close_row(step=2, learning_rate=0.1, metrics={"nds": 0.5})
    {'step': 2, 'learning_rate': 0.1, 'loss': 3.0, 'rare': 1.0, 'nds': 0.5}

    Attributes:
        rows: Rows so far.
    """

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self._sums: dict[str, tuple[float, int]] = {}

    def add(self, values: Mapping[str, float]) -> None:
        """Take in the values of one step; a value that is not finite is left out."""
        for name, value in values.items():
            if math.isfinite(value):
                total, count = self._sums.get(name, (0.0, 0))
                self._sums[name] = (total + value, count + 1)

    def close_row(self, *, step: int, learning_rate: float, metrics: Mapping[str, float]) -> Row:
        """Make a row of the means since the last one, and of metrics as they are."""
        means = {name: total / count for name, (total, count) in self._sums.items()}
        row: Row = {"step": step, "learning_rate": learning_rate, **means, **metrics}
        self._sums = {}
        self.rows.append(row)
        return row

    def state(self) -> dict[str, Any]:
        """Give rows and open window, fit for JSON."""
        return {"rows": self.rows, "sums": self._sums}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Put back what ``state`` gave."""
        self.rows = list(state["rows"])
        self._sums = {name: (total, count) for name, (total, count) in state["sums"].items()}
