"""What stands beside the lanes: parked rows, large vehicles, work zones with barriers and cones."""

from __future__ import annotations

import numpy as np

from qdbev.data.synthetic.shapes.catalogue import KINDS
from qdbev.data.synthetic.stage.casting import Casting

_LARGE = (("bus", 0.5), ("trailer", 0.5), ("construction_vehicle", 0.5), ("truck", 0.5))  # share of scenes


def _park(cast: Casting, s: float, *, side: int, label: str, role: str = "parked") -> bool:
    """Park at the kerb, heading with the traffic of that side: -1 right, +1 left."""
    if cast.layout.crossing_near(s, margin_m=16):
        return False
    offset = side * (cast.main.lanes_m + 0.5 * KINDS[label].size_lwh_m[1] + 0.35)
    return cast.still(label, cast.beside(s, offset, turned=0.0 if side < 0 else np.pi), role)


def _side(cast: Casting) -> int:
    return int(cast.rng.choice([-1, 1]))


def add_large(cast: Casting) -> None:
    """Buses, trailers, construction vehicles and trucks, one or two of each in a fair part of the scenes."""
    for label, chance in _LARGE:
        if cast.rng.random() < chance:
            for _ in range(int(cast.rng.integers(1, 3))):
                any(_add_one_large(cast, label) for _ in range(3))


def _add_one_large(cast: Casting, label: str) -> bool:
    """At the kerb, or in a yard beside the road in any of four directions."""
    side, s = _side(cast), cast.anywhere()
    if cast.rng.random() < 0.65:
        return _park(cast, s, side=side, label=label)
    if cast.layout.crossing_near(s, margin_m=18):
        return False
    yard = side * (cast.main.edge_m + float(cast.rng.uniform(4, 9)))
    turned = float(cast.rng.choice([0.0, np.pi, np.pi / 2, -np.pi / 2]))
    return cast.still(label, cast.beside(s, yard, turned=turned), "parked")


def add_parked(cast: Casting) -> None:
    """Rows at both kerbs, and sometimes cars at right angles beside the road."""
    rng = cast.rng
    for side in (-1, 1):
        filling = float(rng.uniform(0.1, 0.5))
        for s in np.arange(cast.window[0] + rng.uniform(0, 6), cast.window[1], 6.4):
            if rng.random() < filling:
                label = str(rng.choice(["car", "truck", "motorcycle"], p=[0.86, 0.06, 0.08]))
                _park(cast, float(s), side=side, label=label, role="idle" if label == "motorcycle" else "parked")
    if rng.random() < 0.3:
        side, first = _side(cast), cast.anywhere()
        for s in first + 3.0 * np.arange(int(rng.integers(2, 6))):
            if rng.random() < 0.8 and not cast.layout.crossing_near(s, margin_m=16):
                turned = float(rng.choice([-1, 1])) * np.pi / 2
                cast.still("car", cast.beside(s, side * (cast.main.edge_m + 4), turned=turned), "parked")


def add_work_zones(cast: Casting) -> None:
    """Rows of barriers along a kerb with cones around them, often a machine behind; some cones alone."""
    rng = cast.rng
    for _ in range(int(rng.choice([0, 1, 2], p=[0.3, 0.5, 0.2]))):
        _add_work_zone(cast)
    for _ in range(int(rng.integers(0, 5))):
        edge = _side(cast) * (cast.main.kerb_m + float(rng.uniform(-2.5, 2.0)))
        cast.still("traffic_cone", cast.beside(cast.anywhere(inset_m=(12, 14)), edge), "fixed")


def _add_work_zone(cast: Casting) -> None:
    rng, side = cast.rng, _side(cast)
    start = cast.anywhere(inset_m=(8, 20))
    edge = side * (cast.main.lanes_m + 0.4)
    for k in range(int(rng.integers(2, 6))):
        pose = cast.beside(start + 2.7 * k, edge, turned=np.pi / 2)
        cast.still("barrier", pose, "fixed", clearance_m=0.05)
    for k in range(int(rng.integers(2, 6))):
        s = start + float(rng.uniform(-7, -1) if k % 2 else rng.uniform(14, 20))
        cast.still("traffic_cone", cast.beside(s, edge + side * float(rng.uniform(-0.3, 1.5))), "fixed")
    if rng.random() < 0.4:
        pose = cast.beside(start + 6, edge + side * 2.2, turned=float(rng.choice([0, np.pi])))
        cast.still("construction_vehicle", pose, "parked")
