"""Where the things of a work zone stand along the road, by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from qdbev.data.synthetic.stage.kerbside import add_work_zones
from qdbev.data.synthetic.tokens import generator


class Along:
    """A straight road: a pose is its arc length, how far left, and its turn; whatever stands is noted."""

    def __init__(self, number: int) -> None:
        self.rng = generator("kerbside", number)
        self.main = SimpleNamespace(lanes_m=3.5, kerb_m=4.0)
        self.standing: list[tuple[str, Any]] = []

    def anywhere(self, *, inset_m: tuple[float, float]) -> float:
        return 100.0

    def beside(self, s: float, left_m: float, *, turned: float = 0.0) -> Any:
        return np.array([s, left_m, turned])

    def still(self, label: str, pose: Any, role: str, *, clearance_m: float = 0.35) -> bool:
        self.standing.append((label, pose))
        return True


def test_a_machine_stands_behind_the_row_of_barriers() -> None:
    machines = 0
    for number in range(40):
        cast = Along(number)
        add_work_zones(cast)  # type: ignore[arg-type]
        row = [pose for label, pose in cast.standing if label == "barrier"]
        assert {round(float(s - 100) / 2.7, 6) % 1 for s, _, _ in row} <= {0.0}  # one every 2.7 m from its start
        assert all(abs(left) == pytest.approx(3.9) for _, left, _ in row)
        for s, left, _ in (pose for label, pose in cast.standing if label == "construction_vehicle"):
            machines += 1
            assert (s, abs(left)) == (pytest.approx(106.0), pytest.approx(6.1))  # further from the lanes than they
    assert machines > 5
