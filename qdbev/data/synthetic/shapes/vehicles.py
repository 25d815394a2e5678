"""Shapes of the vehicle classes: front and back differ, so that the heading can be seen."""

from __future__ import annotations

import numpy as np

from qdbev.data.synthetic.geometry import Array
from qdbev.data.synthetic.shapes.mesh import HEAD_LIGHT, TAIL_LIGHT, WINDOW, Mesh, MeshBuilder, Part

GLASS = (44, 56, 68)
RUBBER = (26, 26, 28)
DARK = (52, 52, 56)
LAMP = (250, 246, 226)
RED = (170, 16, 18)


def _lights(mesh: MeshBuilder, part: Part, *, head_v: tuple[float, float], tail_v: tuple[float, float]) -> None:
    """Two white lamps in front and two red ones behind."""
    for u in ((0.04, 0.26), (0.74, 0.96)):
        mesh.panel(part, "front", u, head_v, LAMP, HEAD_LIGHT)
        mesh.panel(part, "back", u, tail_v, RED, TAIL_LIGHT)


def _wheels(mesh: MeshBuilder, part: Part, at: tuple[float, ...], *, half_width: float, radius: float) -> None:
    for x in at:
        for y in (-half_width, half_width):
            mesh.wheel(part, x, y, radius)


def car(size: Array, paint: Array, rng: np.random.Generator) -> Mesh:
    """Sedan, hatchback or van by chance: bonnet in front, lamps, windows."""
    (length, width, height), mesh = size, MeshBuilder()
    a, w = length / 2, width / 2
    rear = (-0.60, -0.98, -0.92)[int(rng.integers(3))]  # where the roof ends, in half lengths: boot, tailgate, van
    mesh.box((-0.94 * a, 0.94 * a), (-0.88 * w, 0.88 * w), (0.0, 0.18 * height), RUBBER)
    body = mesh.box(
        (-a, a), (-w, w), (0.16 * height, 0.56 * height), paint, top_x=(-0.98 * a, 0.9 * a), top_y=(-0.95 * w, 0.95 * w)
    )
    _lights(mesh, body, head_v=(0.45, 0.85), tail_v=(0.45, 0.95))
    mesh.panel(body, "front", (0.3, 0.7), (0.3, 0.75), DARK)
    mesh.panel(body, "back", (0.38, 0.62), (0.35, 0.6), (216, 214, 200))
    _wheels(mesh, body, (-0.62 * a, 0.62 * a), half_width=w, radius=0.2 * height)
    cabin = mesh.box(
        (rear * a, 0.46 * a),
        (-0.92 * w, 0.92 * w),
        (0.55 * height, height),
        paint,
        top_x=(min(rear + 0.16, -0.5) * a, 0.14 * a),
        top_y=(-0.74 * w, 0.74 * w),
    )
    mesh.panel(cabin, "front", (0.06, 0.94), (0.1, 0.9), GLASS, WINDOW)
    mesh.panel(cabin, "back", (0.1, 0.9), (0.25, 0.88), GLASS, WINDOW)
    mesh.flanks(cabin, (0.08, 0.48), (0.12, 0.86), GLASS, WINDOW)
    mesh.flanks(cabin, (0.54, 0.92), (0.12, 0.86), GLASS, WINDOW)
    return mesh.build()


def truck(size: Array, paint: Array, rng: np.random.Generator) -> Mesh:
    """A painted cab in front of a bright cargo box, or of a low open bed."""
    (length, width, height), mesh = size, MeshBuilder()
    a, w, split = length / 2, width / 2, length * 0.22
    chassis = mesh.box((-a, a), (-0.85 * w, 0.85 * w), (0.1 * height, 0.26 * height), DARK)
    _wheels(mesh, chassis, (-0.62 * a, 0.66 * a), half_width=w, radius=0.17 * height)
    box_top = height if rng.random() < 0.75 else 0.5 * height
    cargo_paint = np.clip(paint * 0.2 + np.array([180, 180, 178]) + rng.normal(0, 8, 3), 0, 255)
    cargo = mesh.box((-a, split - 0.1), (-w, w), (0.24 * height, box_top), cargo_paint)
    mesh.panel(cargo, "back", (0.48, 0.52), (0.05, 0.95), DARK)
    mesh.flanks(cargo, (0.1, 0.9), (0.35, 0.6), paint)
    cab = mesh.box((split, a), (-0.95 * w, 0.95 * w), (0.16 * height, 0.84 * height), paint, top_x=(split, 0.9 * a))
    mesh.panel(cab, "front", (0.06, 0.94), (0.52, 0.94), GLASS, WINDOW)
    mesh.flanks(cab, (0.3, 0.92), (0.52, 0.92), GLASS, WINDOW)
    for u in ((0.05, 0.25), (0.75, 0.95)):
        mesh.panel(cab, "front", u, (0.1, 0.26), LAMP, HEAD_LIGHT)
        mesh.panel(cargo, "back", u, (0.0, 0.2), RED, TAIL_LIGHT)
    return mesh.build()


def bus(size: Array, paint: Array, rng: np.random.Generator) -> Mesh:
    """A long painted box with a band of windows and a large windscreen."""
    (length, width, height), mesh = size, MeshBuilder()
    a, w = length / 2, width / 2
    mesh.box((-0.97 * a, 0.97 * a), (-0.9 * w, 0.9 * w), (0.0, 0.12 * height), RUBBER)
    body = mesh.box((-a, a), (-w, w), (0.1 * height, height), paint, top_y=(-0.95 * w, 0.95 * w))
    mesh.flanks(body, (0.0, 1.0), (0.12, 0.2), (236, 236, 230))
    for k in range(6):
        mesh.flanks(body, (0.03 + 0.16 * k, 0.16 + 0.16 * k), (0.46, 0.82), GLASS, WINDOW)
    mesh.panel(body, "front", (0.05, 0.95), (0.36, 0.84), GLASS, WINDOW)
    mesh.panel(body, "front", (0.2, 0.8), (0.87, 0.97), (250, 190, 70))
    mesh.panel(body, "back", (0.15, 0.85), (0.55, 0.84), GLASS, WINDOW)
    mesh.panel(body, "back", (0.2, 0.8), (0.18, 0.4), DARK)
    _lights(mesh, body, head_v=(0.12, 0.24), tail_v=(0.2, 0.42))
    _wheels(mesh, body, (-0.55 * a, 0.6 * a), half_width=w, radius=0.15 * height)
    return mesh.build()


def trailer(size: Array, paint: Array, rng: np.random.Generator) -> Mesh:
    """A long box without a cab: wheels at its back, legs at its front, red marks behind."""
    (length, width, height), mesh = size, MeshBuilder()
    a, w = length / 2, width / 2
    axle = mesh.box((-0.95 * a, -0.35 * a), (-0.8 * w, 0.8 * w), (0.05 * height, 0.3 * height), DARK)
    _wheels(mesh, axle, (-0.8 * a, -0.6 * a, -0.4 * a), half_width=w, radius=0.14 * height)
    mesh.box((0.55 * a, 0.62 * a), (-0.6 * w, 0.6 * w), (0.0, 0.3 * height), DARK)
    box = mesh.box((-a, a), (-w, w), (0.29 * height, height), paint)
    for k in range(5):
        mesh.flanks(box, (0.08 + 0.19 * k, 0.11 + 0.19 * k), (0.0, 1.0), paint * 0.72)
    mesh.flanks(box, (0.0, 1.0), (0.0, 0.09), (214, 60, 40))
    mesh.panel(box, "front", (0.1, 0.9), (0.1, 0.9), paint * 0.8)
    mesh.panel(box, "back", (0.47, 0.53), (0.0, 1.0), DARK)
    for u in ((0.0, 0.2), (0.8, 1.0)):
        mesh.panel(box, "back", u, (0.0, 0.16), RED, TAIL_LIGHT)
        mesh.panel(box, "back", u, (0.84, 1.0), (220, 60, 40))
    return mesh.build()


def construction_vehicle(size: Array, paint: Array, rng: np.random.Generator) -> Mesh:
    """A yellow machine: excavator with tracks and an arm, or wheel loader with a bucket, by chance."""
    (length, width, height), mesh = size, MeshBuilder()
    a, w = length / 2, width / 2
    if rng.random() < 0.5:
        for y in ((-w, -0.5 * w), (0.5 * w, w)):
            mesh.box((-a, 0.35 * a), y, (0.0, 0.28 * height), RUBBER)
        base = (0.26 * height, 0.62 * height)
    else:
        low = mesh.box((-0.9 * a, 0.5 * a), (-0.7 * w, 0.7 * w), (0.1 * height, 0.3 * height), DARK)
        _wheels(mesh, low, (-0.6 * a, 0.25 * a), half_width=w, radius=0.22 * height)
        base = (0.28 * height, 0.6 * height)
    mesh.box((-a, -0.1 * a), (-0.8 * w, 0.8 * w), base, paint, top_x=(-0.9 * a, -0.1 * a))
    cab = mesh.box(
        (-0.2 * a, 0.3 * a), (-0.55 * w, 0.55 * w), (0.45 * height, height), paint, top_x=(-0.15 * a, 0.2 * a)
    )
    mesh.panel(cab, "front", (0.1, 0.9), (0.3, 0.92), GLASS, WINDOW)
    mesh.flanks(cab, (0.15, 0.85), (0.4, 0.92), GLASS, WINDOW)
    mesh.panel(cab, "back", (0.15, 0.85), (0.5, 0.9), GLASS, WINDOW)
    mesh.box(
        (0.3 * a, 0.75 * a), (-0.14 * w, 0.14 * w), (0.3 * height, 0.85 * height), paint, top_x=(0.55 * a, 0.95 * a)
    )
    mesh.box((0.7 * a, a), (-0.9 * w, 0.9 * w), (0.02 * height, 0.42 * height), (150, 152, 158), top_x=(0.8 * a, a))
    return mesh.build()
