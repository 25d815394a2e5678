"""Vehicles in the lanes: the ego's lane moves as the ego does, other lanes at a pace of their own or not at all."""

from __future__ import annotations

import numpy as np

from qdbev.data.synthetic.geometry import Path
from qdbev.data.synthetic.stage.casting import Casting
from qdbev.data.synthetic.stage.roads import LANE_M, distance

_LABELS = ("car", "truck", "bus", "trailer", "motorcycle", "bicycle")
_SHARES = (0.66, 0.12, 0.05, 0.03, 0.09, 0.05)
_CYCLE_SPEEDS = {"bicycle": (3.0, 6.0), "motorcycle": (4.0, 9.0)}


def add_traffic(cast: Casting) -> None:
    """Fill all lanes of all roads."""
    for number, road in enumerate(cast.layout.roads):
        for forward in (True, False):
            for index in range(road.lanes):
                lane = road.lane(index, forward=forward)
                if number:
                    _add_waiting(cast, lane)
                else:
                    _add_lane(cast, lane, own=forward and index == cast.layout.ego_lane, forward=forward)


def _label(cast: Casting) -> tuple[str, str]:
    """A class and its role in a lane."""
    label = str(cast.rng.choice(_LABELS, p=_SHARES))
    return label, "ridden" if label in _CYCLE_SPEEDS else "lane"


def _add_lane(cast: Casting, lane: Path, *, own: bool, forward: bool) -> None:
    """Up to three vehicles that follow each other on the main road."""
    rng, times = cast.rng, cast.stage.times
    speed = 0.0 if rng.random() < 0.3 else float(rng.uniform(3.5, 10.0))
    with_ego = own and not cast.layout.turning
    moved = cast.driven if with_ego else distance(times, speed=speed, acceleration=0.0)
    low, high = cast.window if forward else (-cast.window[1], -cast.window[0])
    half, count = float(moved[-1]) / 2, 0
    s = low - half + float(rng.uniform(0, 16))
    while s < high - half and count < 3:
        if rng.random() < 0.62:
            label, role = _label(cast)
            count += cast.along(label, lane, s + moved, role, left_m=float(rng.normal(0, 0.15)))
            if label == "trailer":  # drawn by a truck
                cast.along("truck", lane, s + moved + 10.2, "lane")
        s += float(rng.uniform(9, 24))


def _add_waiting(cast: Casting, lane: Path) -> None:
    """Up to two vehicles that wait at their stop line before the main road."""
    s = -cast.main.kerb_m - 4.0 - float(cast.rng.uniform(0, 14))
    for _ in range(2):
        if cast.rng.random() < 0.5:
            label, role = _label(cast)
            cast.along(label, lane, np.full_like(cast.stage.times, s), role)
        s -= float(cast.rng.uniform(9, 14))


def add_riders(cast: Casting) -> None:
    """Cycles that ride beside the right lane."""
    rng, times = cast.rng, cast.stage.times
    for label, (low, high) in _CYCLE_SPEEDS.items():
        for _ in range(int(rng.choice([0, 1, 2], p=[0.35, 0.4, 0.25]))):
            forward = bool(rng.random() < 0.6)
            path = cast.main.lane(cast.main.lanes - 1, forward=forward).shifted(-LANE_M / 2 + 0.1)
            s = 0.8 * cast.anywhere() * (1 if forward else -1)
            cast.along(label, path, s + float(rng.uniform(low, high)) * (times - times.mean()), "ridden")
