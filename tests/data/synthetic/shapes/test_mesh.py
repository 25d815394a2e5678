"""Shapes: sides face outwards, nothing leaves the annotated box, heads and tails are where they belong."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from qdbev.data.synthetic.shapes import figures, vehicles
from qdbev.data.synthetic.shapes.catalogue import CLASSES, draw_paint, draw_size
from qdbev.data.synthetic.shapes.mesh import HEAD_LIGHT, TAIL_LIGHT, MeshBuilder
from qdbev.data.synthetic.stage.casting import Casting
from qdbev.data.synthetic.stage.world import build_world
from qdbev.data.synthetic.tokens import generator

LIT: dict[str, Callable] = {"car": vehicles.car, "truck": vehicles.truck, "bus": vehicles.bus}


def test_the_sides_of_a_box_face_outwards() -> None:
    mesh = MeshBuilder()
    part = mesh.box((-1, 1), (-2, 2), (0, 3), (0, 0, 0))
    expected = {"front": (1, 0, 0), "back": (-1, 0, 0), "left": (0, 1, 0), "right": (0, -1, 0), "top": (0, 0, 1)}
    for side, quad in part.quads.items():
        normal = np.cross(quad[1] - quad[0], quad[2] - quad[1])
        np.testing.assert_allclose(normal / np.linalg.norm(normal), expected[side], atol=1e-12)


def test_a_panel_takes_its_share_of_a_side() -> None:
    mesh = MeshBuilder()
    part = mesh.box((0, 2), (0, 4), (0, 1), (0, 0, 0))
    mesh.panel(part, "front", (0.25, 0.75), (0.5, 1.0), (9, 9, 9))
    np.testing.assert_allclose(mesh.build().vertices[-4:], [[2, 1, 0.5], [2, 3, 0.5], [2, 3, 1], [2, 1, 1]])


@pytest.mark.parametrize("label", LIT)
def test_white_lamps_are_in_front_and_red_ones_behind(label: str) -> None:
    rng = generator("lamps", label)
    size = draw_size(label, rng)
    mesh = LIT[label](size, draw_paint(label, rng), rng)
    middle = mesh.vertices[mesh.faces].mean(1)[:, 0]
    assert (middle[mesh.kind == HEAD_LIGHT] > 0.4 * size[0]).sum() == 2
    assert (middle[mesh.kind == TAIL_LIGHT] < -0.4 * size[0]).sum() == 2


def test_no_shape_leaves_its_box() -> None:
    seen = set()
    for number in range(12):
        for actor in build_world(generator("fit", number), duration_s=1.0).actors:
            if actor.label:
                seen.add(actor.label)
                length, width, height = actor.size_lwh
                low, high = actor.mesh.vertices.min(0), actor.mesh.vertices.max(0)
                stride = 0.5 * np.abs(actor.mesh.swing).max()
                assert (high <= np.array([length / 2 - stride + 0.12, width / 2, height]) + 1e-6).all(), actor.label
                assert (low >= np.array([-length / 2, -width / 2, 0]) - 1e-6).all(), actor.label
    assert seen == set(CLASSES)


def test_a_walker_faces_where_it_walks() -> None:
    rng = generator("face")
    size = draw_size("pedestrian", rng)
    mesh = figures.pedestrian(size, draw_paint("pedestrian", rng), rng)
    skin = [tuple(c) in {tuple(map(float, s)) for s in figures.SKIN} for c in mesh.colour]
    faces = mesh.vertices[mesh.faces].mean(1)[skin]
    assert len(faces) and faces[:, 0].max() > 0


def test_casting_is_what_the_world_is_filled_with() -> None:
    world = build_world(generator("casting"), duration_s=1.0)
    cast = Casting(generator("again"), world.layout, None, world.times, (-5.0, 5.0))  # type: ignore[arg-type]
    np.testing.assert_allclose(cast.beside(0.0, 3.0)[:2] - cast.beside(0.0, 0.0)[:2], [0, 3], atol=0.05)
