"""Shapes of the small classes: cycles with and without riders, pedestrians, barriers, traffic cones."""

from __future__ import annotations

import numpy as np

from qdbev.data.synthetic.geometry import Array
from qdbev.data.synthetic.shapes.mesh import HEAD_LIGHT, TAIL_LIGHT, Colour, Mesh, MeshBuilder

SKIN = ((234, 190, 160), (198, 140, 104), (120, 80, 58))
HAIR = (40, 30, 26)
CLOTH = ((48, 52, 70), (90, 84, 78), (30, 30, 32), (110, 96, 70))


def _pick(colours: tuple[tuple[int, int, int], ...], rng: np.random.Generator) -> Colour:
    return colours[int(rng.integers(len(colours)))]


def _head(mesh: MeshBuilder, x: float, z: tuple[float, float], colour: Colour, *, hair: Colour = HAIR) -> None:
    """A head with a face in front and hair on the other sides."""
    head = mesh.box((x - 0.12, x + 0.12), (-0.1, 0.1), z, hair)
    mesh.panel(head, "front", (0.05, 0.95), (0.0, 0.8), colour)
    mesh.flanks(head, (0.5, 1.0), (0.0, 0.75), colour)


def pedestrian(size: Array, paint: Array, rng: np.random.Generator) -> Mesh:
    """Two swinging legs, arms, a torso, mostly a rucksack behind, a head with a face."""
    (length, width, height), mesh = size, MeshBuilder()
    trousers, skin, w = _pick(CLOTH, rng), _pick(SKIN, rng), width / 2
    for side, stride in ((-1, 0.5), (1, -0.5)):
        y = (0.02, 0.3 * w + 0.08) if side > 0 else (-0.3 * w - 0.08, -0.02)
        mesh.box((-0.09, 0.09), y, (0.0, 0.48 * height), trousers, swing=(stride * length, 0.0))
        arm = (0.62 * w, 0.92 * w) if side > 0 else (-0.92 * w, -0.62 * w)
        mesh.box((-0.07, 0.07), arm, (0.45 * height, 0.82 * height), paint * 0.85, swing=(-stride * 0.7 * length, 0.0))
    torso = mesh.box((-0.15, 0.15), (-0.62 * w, 0.62 * w), (0.46 * height, 0.85 * height), paint)
    if rng.random() < 0.85:
        mesh.box(
            (-0.46 * length, -0.15), (-0.4 * w, 0.4 * w), (0.55 * height, 0.82 * height), np.clip(210 - paint, 20, 220)
        )
    mesh.panel(torso, "front", (0.25, 0.75), (0.0, 1.0), np.clip(paint * 0.4 + 140, 0, 255))
    _head(mesh, 0.02, (0.87 * height, height), skin)
    return mesh.build()


def seated(size: Array, paint: Array, rng: np.random.Generator) -> Mesh:
    """A person who sits: thighs forward, lower torso; the size is that of the sitting body."""
    (length, width, height), mesh = size, MeshBuilder()
    w, trousers = width / 2, _pick(CLOTH, rng)
    mesh.box((-0.3 * length, 0.3 * length), (-0.6 * w, 0.6 * w), (0.28 * height, 0.45 * height), trousers)
    mesh.box((0.2 * length, 0.36 * length), (-0.5 * w, 0.5 * w), (0.0, 0.3 * height), trousers)
    mesh.box((-0.36 * length, -0.05 * length), (-0.7 * w, 0.7 * w), (0.4 * height, 0.8 * height), paint)
    _head(mesh, -0.15 * length, (0.81 * height, height), _pick(SKIN, rng))
    return mesh.build()


def _rider(
    mesh: MeshBuilder, *, height: float, seat: float, paint: Array, rng: np.random.Generator, helmet: Colour
) -> None:
    """A rider leaning forward on a seat at the given height."""
    for y in ((0.08, 0.22), (-0.22, -0.08)):
        mesh.box((-0.12, 0.12), y, (0.25, seat + 0.05), _pick(CLOTH, rng), top_x=(-0.2, 0.05))
    mesh.box((-0.3, 0.0), (-0.24, 0.24), (seat, 0.84 * height), paint, top_x=(-0.05, 0.22))
    _head(mesh, 0.16, (0.84 * height, height), _pick(SKIN, rng), hair=helmet)


def bicycle(size: Array, paint: Array, rng: np.random.Generator, *, rider: bool) -> Mesh:
    """Two thin wheels, a frame, a handlebar in front, a box behind, and a rider on it or not."""
    (length, width, height), mesh = size, MeshBuilder()
    radius, a = 0.19 * length, length / 2
    seat = min(0.95, 0.72 * height)
    for x in (-a + radius, a - radius):
        part = mesh.box((x - 0.9 * radius, x + 0.9 * radius), (-0.02, 0.02), (radius, radius + 0.02), (60, 60, 62))
        mesh.wheel(part, x, 0.0, radius, hub=(150, 152, 156))
    mesh.box((-0.5 * a, 0.5 * a), (-0.035, 0.035), (0.36, 0.5), paint, top_x=(-0.3 * a, 0.6 * a))
    mesh.box((-0.36 * a, -0.26 * a), (-0.09, 0.09), (0.5, seat), paint * 0.6)
    bar = mesh.box((0.5 * a, 0.62 * a), (-width / 2, width / 2), (seat, seat + 0.1), (40, 40, 42))
    mesh.panel(bar, "front", (0.4, 0.6), (0.0, 1.0), (240, 240, 220), HEAD_LIGHT)
    rear = mesh.box((-0.85 * a, -0.4 * a), (-0.16, 0.16), (0.55, 0.85), np.clip(290 - paint, 30, 230))
    mesh.panel(rear, "back", (0.2, 0.8), (0.1, 0.6), (180, 20, 20), TAIL_LIGHT)
    if rider:
        top = np.clip(rng.normal([150, 150, 120], 60), 10, 250)
        _rider(mesh, height=height, seat=seat, paint=top, rng=rng, helmet=(220, 220, 210))
    return mesh.build()


def motorcycle(size: Array, paint: Array, rng: np.random.Generator, *, rider: bool) -> Mesh:
    """Heavy wheels, a painted tank and fairing, lamps, and a rider in dark cloth or none."""
    (length, width, height), mesh = size, MeshBuilder()
    a, radius, w = length / 2, 0.16 * length, width / 2
    for x in (-a + radius, a - radius):
        part = mesh.box((x - 0.9 * radius, x + 0.9 * radius), (-0.09, 0.09), (0.05, 1.9 * radius), (28, 28, 30))
        mesh.wheel(part, x, -0.09, radius)
        mesh.wheel(part, x, 0.09, radius)
    mesh.box((-0.5 * a, 0.5 * a), (-0.3 * w, 0.3 * w), (0.25, 0.62), (70, 70, 74))
    mesh.box((-0.75 * a, -0.1 * a), (-0.4 * w, 0.4 * w), (0.6, 0.8), (34, 32, 32), top_x=(-0.85 * a, -0.1 * a))
    mesh.box((-0.1 * a, 0.3 * a), (-0.45 * w, 0.45 * w), (0.55, 0.86), paint)
    fairing = mesh.box((0.3 * a, 0.62 * a), (-0.55 * w, 0.55 * w), (0.6, 1.02), paint, top_x=(0.25 * a, 0.45 * a))
    mesh.panel(fairing, "front", (0.25, 0.75), (0.3, 0.8), (250, 246, 226), HEAD_LIGHT)
    mesh.box((0.3 * a, 0.4 * a), (-w, w), (0.95, 1.03), (30, 30, 32))
    tail = mesh.box((-0.9 * a, -0.7 * a), (-0.3 * w, 0.3 * w), (0.62, 0.84), paint * 0.7)
    mesh.panel(tail, "back", (0.0, 1.0), (0.2, 1.0), (170, 16, 18), TAIL_LIGHT)
    if rider:
        jacket = np.clip(rng.normal([40, 40, 44], 12), 10, 90)
        _rider(mesh, height=height, seat=0.8, paint=jacket, rng=rng, helmet=tuple(paint))
    return mesh.build()


def barrier(size: Array, paint: Array, rng: np.random.Generator) -> Mesh:
    """A wall element across its heading, wide at the foot, striped on both faces."""
    (length, width, height), mesh = size, MeshBuilder()
    a, w = length / 2, width / 2
    wall = mesh.box((-a, a), (-w, w), (0.0, height), paint, top_x=(-0.35 * a, 0.35 * a))
    stripe = (214, 40, 34) if paint[1] > 170 else (240, 238, 232)
    for side in ("front", "back"):
        for k in range(4):
            mesh.panel(wall, side, (0.02 + 0.25 * k, 0.14 + 0.25 * k), (0.25, 0.9), stripe)
    return mesh.build()


def traffic_cone(size: Array, paint: Array, rng: np.random.Generator) -> Mesh:
    """A dark foot and an orange cone with two white rings."""
    (length, width, height), mesh = size, MeshBuilder()
    a = min(length, width) / 2
    mesh.box((-a, a), (-a, a), (0.0, 0.06 * height), (60, 40, 34))
    widths, levels = np.array([0.72, 0.58, 0.44, 0.34, 0.2, 0.1]) * a, np.array([0.05, 0.3, 0.5, 0.66, 0.82, 1.0])
    for k in range(5):
        colour = (244, 242, 238) if k % 2 else paint
        lo, hi = (-widths[k], widths[k]), (-widths[k + 1], widths[k + 1])
        mesh.box(lo, lo, (levels[k] * height, levels[k + 1] * height), colour, top_x=hi, top_y=hi)
    return mesh.build()


def animal(size: Array, paint: Array, rng: np.random.Generator) -> Mesh:
    """A body on four legs, and a head in front."""
    (length, width, height), mesh = size, MeshBuilder()
    a, w = length / 2, width / 2
    mesh.box((-a, 0.55 * a), (-w, w), (0.5 * height, 0.85 * height), paint)
    mesh.box((0.5 * a, a), (-0.6 * w, 0.6 * w), (0.65 * height, height), paint * 0.85)
    for x in (-0.85 * a, 0.35 * a):
        for y in (-0.8 * w, 0.3 * w):
            mesh.box((x, x + 0.15 * a), (y, y + 0.5 * w), (0.0, 0.5 * height), paint * 0.7)
    return mesh.build()
