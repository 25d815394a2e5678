"""The ten detection classes and what else nuScenes names: categories, attributes, sizes, paints.

Names follow the nuScenes schema (category, attribute and visibility tables of v1.0-trainval); mean sizes are
near the means of its training annotations.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qdbev.data.synthetic.geometry import Array

CATEGORIES = (
    "human.pedestrian.adult",
    "human.pedestrian.child",
    "human.pedestrian.wheelchair",
    "human.pedestrian.stroller",
    "human.pedestrian.personal_mobility",
    "human.pedestrian.police_officer",
    "human.pedestrian.construction_worker",
    "animal",
    "vehicle.car",
    "vehicle.motorcycle",
    "vehicle.bicycle",
    "vehicle.bus.bendy",
    "vehicle.bus.rigid",
    "vehicle.truck",
    "vehicle.construction",
    "vehicle.emergency.ambulance",
    "vehicle.emergency.police",
    "vehicle.trailer",
    "movable_object.barrier",
    "movable_object.trafficcone",
    "movable_object.pushable_pullable",
    "movable_object.debris",
    "static_object.bicycle_rack",
)
ATTRIBUTES = (
    "vehicle.moving",
    "vehicle.stopped",
    "vehicle.parked",
    "cycle.with_rider",
    "cycle.without_rider",
    "pedestrian.sitting_lying_down",
    "pedestrian.standing",
    "pedestrian.moving",
)
VISIBILITY = (("1", "v0-40"), ("2", "v40-60"), ("3", "v60-80"), ("4", "v80-100"))


@dataclass(frozen=True)
class Kind:
    """One detection class: mean size as length, width, height [m], spread of each, and typical paints (RGB)."""

    category: str
    size_lwh_m: tuple[float, float, float]
    spread: float
    paints: tuple[tuple[int, int, int], ...]


_CAR_PAINTS = (
    (222, 222, 222),
    (178, 180, 184),
    (30, 31, 34),
    (96, 98, 104),
    (160, 24, 24),
    (30, 62, 138),
    (52, 92, 66),
    (196, 178, 140),
)
KINDS = {
    "car": Kind("vehicle.car", (4.6, 1.93, 1.65), 0.07, _CAR_PAINTS),
    "truck": Kind(
        "vehicle.truck", (7.2, 2.5, 3.0), 0.12, ((228, 228, 224), (200, 60, 40), (40, 90, 170), (230, 226, 190))
    ),
    "construction_vehicle": Kind("vehicle.construction", (6.2, 2.7, 3.1), 0.10, ((236, 176, 20), (230, 120, 24))),
    "bus": Kind("vehicle.bus.rigid", (11.0, 2.9, 3.4), 0.06, ((184, 40, 44), (40, 130, 80), (226, 160, 60))),
    "trailer": Kind("vehicle.trailer", (10.5, 2.85, 3.8), 0.12, ((120, 140, 176), (84, 100, 130), (104, 134, 120))),
    "barrier": Kind("movable_object.barrier", (0.5, 2.4, 1.0), 0.06, ((226, 226, 222), (236, 120, 40))),
    "motorcycle": Kind("vehicle.motorcycle", (2.1, 0.78, 1.45), 0.06, ((150, 20, 24), (30, 30, 34), (28, 70, 150))),
    "bicycle": Kind("vehicle.bicycle", (1.72, 0.6, 1.3), 0.06, ((40, 160, 170), (200, 60, 120), (90, 190, 60))),
    "pedestrian": Kind(
        "human.pedestrian.adult",
        (0.7, 0.67, 1.75),
        0.07,
        ((200, 50, 50), (60, 90, 180), (230, 220, 210), (60, 60, 64), (90, 140, 80), (220, 180, 60)),
    ),
    "traffic_cone": Kind("movable_object.trafficcone", (0.42, 0.42, 0.95), 0.10, ((240, 96, 20),)),
}
MORE_KINDS = {
    "animal": Kind("animal", (0.9, 0.34, 0.66), 0.12, ((110, 78, 50), (60, 52, 46), (190, 170, 140))),
    "traffic_sign": Kind("static_object.traffic_sign", (0.3, 0.7, 2.6), 0.0, ((200, 40, 36),)),
}
"""Classes that other data sets have."""
CLASSES = tuple(KINDS)


def draw_size(label: str, rng: np.random.Generator) -> Array:
    """A length, width, height [m] of the class, millimetres kept."""
    kind = (KINDS | MORE_KINDS)[label]
    common, own = rng.normal(0, kind.spread), rng.normal(0, kind.spread / 3, 3)
    factor = np.clip(1 + 0.7 * common + own, 1 - 2 * kind.spread, 1 + 2 * kind.spread)
    size: Array = np.round(np.array(kind.size_lwh_m, dtype=np.float64) * factor, 3)
    return size


def draw_paint(label: str, rng: np.random.Generator) -> Array:
    """A paint of the class with some variation, RGB 0..255."""
    paints = (KINDS | MORE_KINDS)[label].paints
    paint = np.array(paints[int(rng.integers(len(paints)))], dtype=np.float64)
    varied: Array = np.clip(paint + rng.normal(0, 10, 3), 8.0, 250.0)
    return varied
