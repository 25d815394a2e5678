"""What lines the roads without annotation: poles, clutter, trees, buildings."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from qdbev.data.synthetic.geometry import Array
from qdbev.data.synthetic.shapes import scenery
from qdbev.data.synthetic.shapes.catalogue import MORE_KINDS
from qdbev.data.synthetic.shapes.mesh import Mesh
from qdbev.data.synthetic.stage.actors import Actor
from qdbev.data.synthetic.stage.casting import Casting
from qdbev.data.synthetic.stage.roads import Road

_SEEN_M = 75.0  # from the ego's way


def add_surroundings(cast: Casting) -> None:
    """Line both sides of all roads."""
    green = float(cast.rng.random())
    for road in cast.layout.roads:
        for side in (-1, 1):
            _add_sidewalk(cast, road, side)
            _add_frontage(cast, road, side, green=green)


def _add_sidewalk(cast: Casting, road: Road, side: int) -> None:
    """Lamp posts and signs near the kerb, bins and boxes behind."""
    rng = cast.rng
    kerb, behind = (road.centre.shifted(side * (road.kerb_m + d)) for d in (0.7, 2.6))
    for s in np.arange(-45 + rng.uniform(0, 12), 75, 13.0):
        height = float(rng.choice([2.6, 6.5]))
        label = "traffic_sign" if height < 4 and "traffic_sign" in cast.more_things else ""
        _add(cast, scenery.pole, (0.3, 0.3, height), kerb.at(s), off_kerb_m=0.3, label=label)
        if rng.random() < 0.5:
            size = (float(rng.uniform(0.4, 1.4)), float(rng.uniform(0.4, 0.8)), float(rng.uniform(0.6, 1.5)))
            _add(cast, scenery.clutter, size, behind.at(s + 5), off_kerb_m=0.3)


def _add_frontage(cast: Casting, road: Road, side: int, *, green: float) -> None:
    """Trees or buildings behind the sidewalk; green is the share of trees."""
    rng = cast.rng
    line = road.centre.shifted(side * (road.edge_m + float(rng.uniform(5.5, 8))))
    for s in np.arange(-70 + rng.uniform(0, 8), 110, 9.5):
        if rng.random() < green:
            width = float(rng.uniform(3, 5))
            _add(cast, scenery.tree, (width, width, float(rng.uniform(4, 8))), line.at(s), off_kerb_m=3.5 + width / 2)
        elif rng.random() < 0.85:
            size = (8.6, float(rng.uniform(6, 9)), float(rng.uniform(4, 14)))
            _add(cast, scenery.building, size, line.at(s), off_kerb_m=3.6 + 4.5)


def _add(
    cast: Casting,
    shape: Callable[..., Mesh],
    size: tuple[float, float, float],
    pose: Array,
    *,
    off_kerb_m: float,
    label: str = "",
) -> None:
    """Place one thing unless it is out of sight, too near a road or in the way."""
    way = cast.stage.ego_track
    if np.hypot(way[:, 0] - pose[0], way[:, 1] - pose[1]).min() > _SEEN_M:
        return
    for road in cast.layout.roads:
        gap = np.hypot(road.centre.points[:, 0] - pose[0], road.centre.points[:, 1] - pose[1]).min()
        if gap < road.kerb_m + off_kerb_m:
            return
    lwh, track = np.array(size), cast.stage.still(pose)
    if cast.stage.has_room(track, lwh, clearance_m=0.3):
        category = MORE_KINDS[label].category if label else ""
        cast.stage.put(Actor(label, category, lwh, track, shape(lwh, cast.rng), "fixed"), clearance_m=0.3)
