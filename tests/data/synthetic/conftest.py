"""Hand-placed boxes for tests of rendering and scanning."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from qdbev.data.synthetic.shapes.mesh import MeshBuilder
from qdbev.data.synthetic.stage.actors import Actor
from qdbev.data.synthetic.stage.crowd import Crowd
from qdbev.data.synthetic.stage.roads import draw_layout
from qdbev.data.synthetic.stage.world import World
from qdbev.data.synthetic.tokens import generator

Placed = tuple[float, float, float, tuple[float, float, float]]


def _crowd_of(*boxes: Placed) -> Crowd:
    times = np.arange(0, 1.01, 0.1)
    actors = []
    for x, y, yaw, size in boxes:
        mesh = MeshBuilder()
        length, width, height = size
        mesh.box((-length / 2, length / 2), (-width / 2, width / 2), (0, height), (200, 40, 40))
        track = np.tile([x, y, yaw], (len(times), 1))
        actors.append(Actor("car", "vehicle.car", np.array(size), track, mesh.build(), "parked"))
    layout = draw_layout(generator("staging"), duration_s=1.0)
    return Crowd(World(layout, times, np.zeros((len(times), 3)), actors))


@pytest.fixture
def crowd_of() -> Callable[..., Crowd]:
    """Makes a crowd of boxes given as x, y, yaw, (length, width, height), the ego at the origin heading +x."""
    return _crowd_of
