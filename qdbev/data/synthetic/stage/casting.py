"""Putting actors on a stage: draw size, paint and shape of a class, and place it still or along a path."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from qdbev.data.synthetic.geometry import Array, Path
from qdbev.data.synthetic.shapes import figures, vehicles
from qdbev.data.synthetic.shapes.catalogue import KINDS, MORE_KINDS, draw_paint, draw_size
from qdbev.data.synthetic.shapes.mesh import Mesh
from qdbev.data.synthetic.stage.actors import Actor, Stage
from qdbev.data.synthetic.stage.roads import Layout, Road

_SHAPES: dict[str, Callable[..., Mesh]] = {
    "car": vehicles.car,
    "truck": vehicles.truck,
    "bus": vehicles.bus,
    "trailer": vehicles.trailer,
    "construction_vehicle": vehicles.construction_vehicle,
    "barrier": figures.barrier,
    "traffic_cone": figures.traffic_cone,
    "animal": figures.animal,
}
_CYCLES: dict[str, Callable[..., Mesh]] = {"bicycle": figures.bicycle, "motorcycle": figures.motorcycle}
_WORKER_PAINT = np.array([230.0, 150.0, 30.0])
_STEP_RATE = 7.0  # swing of a walker's legs, rad/s


@dataclass
class Casting:
    """A stage being filled; every step draws from the same generator in the same order.

    Attributes:
        rng: The world's generator.
        layout: Its roads.
        stage: Who is placed.
        driven: The ego's way at the stage's times [m].
        window: Arc lengths of the main road between which things are placed.
        more_things: Things beyond the ten classes that have boxes.
    """

    rng: np.random.Generator
    layout: Layout
    stage: Stage
    driven: Array
    window: tuple[float, float]
    more_things: frozenset[str] = frozenset()

    @property
    def main(self) -> Road:
        """The road that the ego drives on at first."""
        return self.layout.roads[0]

    def anywhere(self, *, inset_m: tuple[float, float] = (0.0, 0.0)) -> float:
        """An arc length of the main road within the window."""
        return float(self.rng.uniform(self.window[0] + inset_m[0], self.window[1] - inset_m[1]))

    def beside(self, s: float, left_m: float, *, turned: float = 0.0) -> Array:
        """A pose to the left of the main road's centre line (negative: right), heading with it plus a turn."""
        x, y, yaw = self.main.centre.at(s)
        return np.array([x - left_m * np.sin(yaw), y + left_m * np.cos(yaw), yaw + turned])

    def still(self, label: str, pose: Array, role: str, *, clearance_m: float = 0.35) -> bool:
        """Place something that stays, a little off the pose; False where there is no room."""
        pose = np.array(pose) + self.rng.normal(0, [0.08, 0.08, 0.03])
        return self._place(label, self.stage.still(pose), role, clearance_m=clearance_m)

    def along(self, label: str, path: Path, s: Array, role: str, *, left_m: float = 0.0) -> bool:
        """Place something that moves on a path, at arc length s for each of the stage's times."""
        track = path.at(s)
        track[:, 0] -= left_m * np.sin(track[:, 2])
        track[:, 1] += left_m * np.cos(track[:, 2])
        return self.moving(label, track, role)

    def moving(self, label: str, track: Array, role: str) -> bool:
        """Place something with a track of its own."""
        return self._place(label, track, role, clearance_m=0.35)

    def _place(self, label: str, track: Array, role: str, *, clearance_m: float) -> bool:
        if label == "pedestrian":
            actor = self._person(track, role)
        elif label in _CYCLES:
            actor = self._cycle(label, track, role)
        else:
            size, paint = draw_size(label, self.rng), draw_paint(label, self.rng)
            category = (KINDS | MORE_KINDS)[label].category
            actor = Actor(label, category, size, track, _SHAPES[label](size, paint, self.rng), role)
        return self.stage.add(actor, clearance_m=clearance_m)

    def _person(self, track: Array, role: str) -> Actor:
        rng = self.rng
        size, paint = draw_size("pedestrian", rng), draw_paint("pedestrian", rng)
        kind = str(rng.choice(["adult", "child", "construction_worker"], p=[0.86, 0.08, 0.06]))
        if kind == "child":
            size = size * [0.75, 0.75, 0.7]
        if kind == "construction_worker":
            paint = _WORKER_PAINT
        if role == "sit":
            size = size * [1.1, 1.0, 0.75]
        size = np.round(size, 3)
        shape = figures.seated if role == "sit" else figures.pedestrian
        gait = (_STEP_RATE, float(rng.uniform(0.1, 6.2))) if role == "walk" else (0.0, 0.25)
        return Actor("pedestrian", f"human.pedestrian.{kind}", size, track, shape(size, paint, rng), role, gait)

    def _cycle(self, label: str, track: Array, role: str) -> Actor:
        size, paint = draw_size(label, self.rng), draw_paint(label, self.rng)
        height = {("bicycle", True): 1.32, ("motorcycle", True): 1.0}.get((label, role == "ridden"), 0.82)
        size = np.round(size * [1, 1, height], 3)
        mesh = _CYCLES[label](size, paint, self.rng, rider=role == "ridden")
        return Actor(label, KINDS[label].category, size, track, mesh, role)
