"""Looks that nobody can compute by hand: golden sums of shapes, of light and of scenes, and laws of the light.

The shipped weights have learned these scenes, and stores name data by version alone: whatever changes a number below
changes what was measured. Golden numbers, with the day they were taken and the reason of each later change:

2026-12-01  seated, animal, parked bicycle, ridden motorcycle, grounds: first taken
2026-11-30  all: as the scenes are that the shipped weights were trained on
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from functools import partial
from typing import Any

import numpy as np
import pytest

from qdbev.data.synthetic.sensors.appearance import Appearance, draw_appearance
from qdbev.data.synthetic.sensors.ground import paint_ground
from qdbev.data.synthetic.shapes import figures, scenery, vehicles
from qdbev.data.synthetic.shapes.catalogue import draw_paint, draw_size
from qdbev.data.synthetic.stage.world import build_world
from qdbev.data.synthetic.tokens import generator

BODIES: dict[str, tuple[Callable, float]] = {
    "car": (vehicles.car, 25.997207283),
    "truck": (vehicles.truck, 27.885626715),
    "bus": (vehicles.bus, 28.508312566),
    "trailer": (vehicles.trailer, 31.696399689),
    "construction_vehicle": (vehicles.construction_vehicle, 25.968589766),
    "barrier": (figures.barrier, 22.838805186),
    "traffic_cone": (figures.traffic_cone, 26.215856462),
    "pedestrian": (figures.pedestrian, 21.676780298),
    "bicycle": (partial(figures.bicycle, rider=True), 36.300505933),
    "motorcycle": (partial(figures.motorcycle, rider=False), 27.423775624),
}
OTHERS: dict[str, tuple[str, Callable, float]] = {
    "seated": ("pedestrian", figures.seated, 15.623482977),
    "animal": ("bicycle", figures.animal, 20.256618415),
    "parked bicycle": ("bicycle", partial(figures.bicycle, rider=False), 28.14284222),
    "ridden motorcycle": ("motorcycle", partial(figures.motorcycle, rider=True), 34.725848216),
}
"""Further shapes: sizes and paints are drawn as those of a class."""
SCENERY: dict[Callable, tuple[tuple[float, float, float], float]] = {
    scenery.building: ((12.0, 9.0, 14.0), 28.41786581),
    scenery.tree: ((4.0, 4.0, 7.0), 12.3963999),
    scenery.pole: ((0.3, 0.3, 6.0), 14.742562658),
    scenery.clutter: ((0.8, 0.8, 1.2), 12.80587892),
}
WORLDS = ((90, 15.712962318), (117, 14.80144888), (112, 15.27994213))
GROUNDS = (103.266195, 100.603942, 114.218122)
SKIES = 40


def golden(*values: Any) -> float:
    """A mean that moves when any of the numbers moves, or changes places with another."""
    flat = np.concatenate([np.asarray(value, dtype=np.float64).ravel() for value in values])
    return float(np.abs(flat + np.sin(np.arange(len(flat)))).mean())


def arrays(mesh: Any) -> list[Any]:
    return [getattr(mesh, field.name) for field in fields(mesh)]


@pytest.fixture(scope="module")
def skies() -> list[Appearance]:
    return [draw_appearance(generator("sky", number)) for number in range(SKIES)]


@pytest.mark.parametrize(
    ("label", "make", "expected"), [*((label, *row) for label, row in BODIES.items()), *OTHERS.values()]
)
def test_bodies_have_the_shape_that_was_learned(label: str, make: Callable, expected: float) -> None:
    drawn = []
    for number in range(4):
        rng = generator("looks", label, number)
        drawn += arrays(make(draw_size(label, rng), draw_paint(label, rng), rng))
    assert golden(*drawn) == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("make", SCENERY, ids=lambda make: make.__name__)
def test_scenery_has_the_shape_that_was_learned(make: Callable) -> None:
    size, expected = SCENERY[make]
    drawn = [make(np.array(size), generator("looks", make.__name__, number)) for number in range(4)]
    assert golden(*(array for mesh in drawn for array in arrays(mesh))) == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("number", range(len(WORLDS)))
def test_a_scene_is_the_one_that_was_learned(number: int) -> None:
    world = build_world(generator("golden", number), duration_s=1.0)
    things = [value for actor in world.actors for value in (actor.track, actor.size_lwh, actor.gait)]
    assert len(world.actors) == WORLDS[number][0]
    assert golden(world.ego_track, *things) == pytest.approx(WORLDS[number][1], abs=1e-8)


@pytest.mark.parametrize(("number", "expected"), enumerate(GROUNDS))
def test_the_ground_is_painted_as_it_was_learned(number: int, expected: float) -> None:
    world = build_world(generator("golden", number), duration_s=1.0)
    rng = generator("golden ground", number)
    ground = paint_ground(rng, world.layout, ego_track=world.ego_track, metres_per_px=0.5)
    assert golden(ground.fine, ground.coarse) == pytest.approx(expected, abs=1e-3)


def test_light_is_the_one_that_was_learned(skies: list[Appearance]) -> None:
    drawn = [value for sky in skies for value in arrays(sky) if not isinstance(value, str)]
    assert golden(*drawn) == pytest.approx(22.232555515, abs=1e-8)


def test_dusk_is_warm_night_is_dim_and_shade_is_bluish(skies: list[Appearance]) -> None:
    clear = {sky.hour: sky for sky in skies if sky.weather == "clear"}
    assert set(clear) == {"day", "dusk", "night"}
    assert (np.diff(clear["dusk"].sunlight) < 0).all() and (np.diff(clear["night"].sunlight) > 0).all()
    assert all(sky.ambient[2] > sky.ambient[0] for sky in clear.values())
    whites = [clear[hour].sunlight + clear[hour].ambient for hour in ("night", "dusk", "day")]
    assert (np.diff(whites, axis=0)[:, :2] > 0).all() and np.max(whites) < 1.2


def test_clouds_dull_the_sun_and_rain_alone_leaves_drops(skies: list[Appearance]) -> None:
    for sky in skies:
        twin = next(other for other in skies if other.hour == sky.hour and other.weather == "clear")
        share = {"clear": 1.0, "overcast": 0.35}.get(sky.weather, 0.2)
        np.testing.assert_allclose(sky.sunlight, share * twin.sunlight)
        assert (sky.drops > 0) == (sky.weather == "rain")
        assert (sky.fog_per_m >= 0.012) == (sky.weather == "fog")
        np.testing.assert_allclose(np.linalg.norm(sky.sun), 1)
