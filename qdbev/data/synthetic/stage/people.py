"""People on foot, on sidewalks and at crossings, and the cycles they left there."""

from __future__ import annotations

import numpy as np

from qdbev.data.synthetic.geometry import Path
from qdbev.data.synthetic.stage.casting import Casting


def _walkway(cast: Casting) -> tuple[Path, float]:
    """A line along a sidewalk, in either direction, and a place on it."""
    side, back = int(cast.rng.choice([-1, 1])), bool(cast.rng.random() < 0.5)
    line = cast.main.centre.shifted(side * (cast.main.kerb_m + float(cast.rng.uniform(0.5, 2.7))))
    s = cast.anywhere(inset_m=(9, 9))
    return (line.reversed(), -s) if back else (line, s)


def add_people(cast: Casting) -> None:
    """Walkers along the road and across it, others who stand or sit."""
    rng, times = cast.rng, cast.stage.times
    for _ in range(int(rng.integers(3, 10))):
        path, s = _walkway(cast)
        speed, kind = float(rng.uniform(0.8, 1.8)), rng.random()
        if kind < 0.6:
            cast.along("pedestrian", path, s + speed * (times - times.mean()), "walk")
        elif kind < 0.78:
            _add_crossing(cast, speed)
        else:
            pose = path.at(s) + np.array([0, 0, rng.uniform(-np.pi, np.pi)])
            cast.still("pedestrian", pose, "sit" if kind > 0.95 else "stand")


def _add_crossing(cast: Casting, speed: float) -> None:
    """Someone who walks across the main road, at a zebra crossing where there is one."""
    rng, times = cast.rng, cast.stage.times
    zebras = [c - 11.0 for c in cast.layout.crossings_s if cast.window[0] < c - 11.0 < cast.window[1]]
    s = zebras[0] + float(rng.normal(0, 0.6)) if zebras else cast.anywhere()
    x, y, yaw = cast.main.centre.at(s)
    yaw += float(rng.choice([-1, 1])) * np.pi / 2
    ahead = speed * (times - times.mean()) + rng.uniform(-5, 5)
    track = np.stack([x + ahead * np.cos(yaw), y + ahead * np.sin(yaw), np.full_like(ahead, yaw)], axis=1)
    cast.moving("pedestrian", track, "walk")


def add_idle_cycles(cast: Casting) -> None:
    """Bicycles and motorcycles that stand on the sidewalks without a rider."""
    rng = cast.rng
    for label, counts in (("bicycle", (0.2, 0.4, 0.4)), ("motorcycle", (0.35, 0.4, 0.25))):
        for _ in range(int(rng.choice([0, 1, 2], p=counts))):
            path, s = _walkway(cast)
            turn = float(rng.choice([0, np.pi / 2])) + rng.normal(0, 0.2)
            cast.still(label, path.at(s) + np.array([0, 0, turn]), "idle")


def add_animals(cast: Casting) -> None:
    """Dogs and deer that stand on the sidewalks, for data sets that look for them."""
    for _ in range(int(cast.rng.integers(1, 4))):
        path, s = _walkway(cast)
        cast.still("animal", path.at(s) + np.array([0, 0, cast.rng.uniform(-np.pi, np.pi)]), "fixed")
