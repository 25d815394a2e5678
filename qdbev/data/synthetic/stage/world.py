"""What is where in one scene and how it moves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qdbev.data.synthetic.geometry import Array
from qdbev.data.synthetic.stage.actors import Actor, Stage
from qdbev.data.synthetic.stage.casting import Casting
from qdbev.data.synthetic.stage.kerbside import add_large, add_parked, add_work_zones
from qdbev.data.synthetic.stage.people import add_animals, add_idle_cycles, add_people
from qdbev.data.synthetic.stage.roads import Layout, distance, draw_layout
from qdbev.data.synthetic.stage.surroundings import add_surroundings
from qdbev.data.synthetic.stage.traffic import add_riders, add_traffic

REACH_M = 20.0  # annotated things are placed this far before and behind the middle of the ego's way
_STEPS = (
    add_traffic,
    add_work_zones,
    add_large,
    add_parked,
    add_riders,
    add_idle_cycles,
    add_people,
    add_surroundings,
)


@dataclass(frozen=True)
class World:
    """A scene's contents over time: ``times`` [s], ego poses and actors' tracks at them, in the scene frame."""

    layout: Layout
    times: Array
    ego_track: Array
    actors: list[Actor]


def build_world(rng: np.random.Generator, *, duration_s: float, more_things: frozenset[str] = frozenset()) -> World:
    """Draw the whole scene.

    Args:
        rng: The scene's generator for its world.
        duration_s: From the first key frame to the last.
        more_things: ``animal`` and ``traffic_sign``, where boxes of them are wanted; all else stays where it is.
    """
    layout = draw_layout(rng, duration_s=duration_s)
    times = np.arange(-0.4, duration_s + 0.45, 0.1)
    driven = distance(times, speed=layout.ego_speed, acceleration=layout.ego_acceleration)
    stage = Stage(times, layout.ego_path.at(driven))
    middle, reach = (0.0, REACH_M - 4) if layout.turning else (float(driven[-1]) / 2, REACH_M)
    cast = Casting(rng, layout, stage, driven, (middle - reach, middle + reach), more_things)
    for step in _STEPS:
        step(cast)
    if "animal" in more_things:
        add_animals(cast)
    return World(layout, times, stage.ego_track, stage.actors)
