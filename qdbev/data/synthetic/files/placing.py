"""Where and when a scene happens: from its own frame and clock to the map's coordinates and Unix time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qdbev.data.synthetic.geometry import Array
from qdbev.data.synthetic.tokens import generator

LOCATIONS = ("singapore-onenorth", "singapore-hollandvillage", "singapore-queenstown", "boston-seaport")
_EPOCH_US = 1_532_400_000_000_000


@dataclass(frozen=True)
class Placing:
    """Map pose (x, y, yaw) of the scene frame's origin, and Unix time [us] of its first key frame."""

    origin: Array
    start_us: int
    location: str

    def pose(self, local: Array) -> Array:
        """A pose (3,) of the scene frame on the map."""
        x, y, yaw = self.origin
        cos, sin = np.cos(yaw), np.sin(yaw)
        return np.array([x + cos * local[0] - sin * local[1], y + sin * local[0] + cos * local[1], yaw + local[2]])

    def microseconds(self, seconds: float) -> int:
        """Unix time [us] of a scene time [s]."""
        return self.start_us + round(seconds * 1e6)


def place(seed: int, scene: str) -> Placing:
    """The placing of a scene: scenes lie on one of four maps, 100 s apart by their number."""
    rng = generator(seed, scene, "placing")
    origin = np.array([rng.uniform(300, 1500), rng.uniform(300, 1500), rng.uniform(-np.pi, np.pi)])
    location = LOCATIONS[int(rng.integers(len(LOCATIONS)))]
    return Placing(origin, _EPOCH_US + int(scene[-4:]) * 100_000_000 + int(rng.integers(1_000_000)), location)
