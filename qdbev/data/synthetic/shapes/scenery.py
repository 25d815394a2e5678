"""Shapes without annotation: buildings, trees, poles and clutter that look a little like things that matter."""

from __future__ import annotations

import numpy as np

from qdbev.data.synthetic.geometry import Array
from qdbev.data.synthetic.shapes.mesh import Mesh, MeshBuilder


def building(size: Array, rng: np.random.Generator) -> Mesh:
    """A block with rows of windows."""
    (length, width, height), mesh = size, MeshBuilder()
    tone = rng.normal([150, 140, 130], 28)
    block = mesh.box((-length / 2, length / 2), (-width / 2, width / 2), (0.0, height), np.clip(tone, 50, 235))
    glass = np.clip(rng.normal([70, 80, 96], 14), 20, 160)
    floors = max(1, int(height / 3.2))
    columns = int(rng.integers(2, 5))
    for side in ("left", "right", "front", "back"):
        mesh.windows(block, side, columns=columns, floors=floors, colour=glass)
    return mesh.build()


def tree(size: Array, rng: np.random.Generator) -> Mesh:
    """A trunk below a crown of two frusta."""
    (length, _, height), mesh = size, MeshBuilder()
    a, green = length / 2, np.clip(rng.normal([62, 96, 46], 16), 20, 150)
    mesh.box((-0.15, 0.15), (-0.15, 0.15), (0.0, 0.45 * height), (84, 66, 50))
    low, mid, high = (-0.6 * a, 0.6 * a), (-a, a), (-0.4 * a, 0.4 * a)
    mesh.box(low, low, (0.35 * height, 0.62 * height), green * 0.85, top_x=mid, top_y=mid)
    mesh.box(mid, mid, (0.62 * height, height), green, top_x=high, top_y=high)
    return mesh.build()


def pole(size: Array, rng: np.random.Generator) -> Mesh:
    """A lamp post, or a post with a sign."""
    height, mesh = size[2], MeshBuilder()
    grey = np.clip(rng.normal(110, 25, 3), 40, 190)
    mesh.box((-0.08, 0.08), (-0.08, 0.08), (0.0, height), grey)
    if height < 4:
        sign = ((200, 40, 36), (40, 80, 180), (230, 200, 60), (236, 236, 236))[int(rng.integers(4))]
        mesh.box((0.08, 0.13), (-0.35, 0.35), (height - 0.75, height), sign)
    else:
        mesh.box((0.0, 1.4), (-0.06, 0.06), (height - 0.15, height), grey)
    return mesh.build()


def clutter(size: Array, rng: np.random.Generator) -> Mesh:
    """A bin, a hedge, a box of the electricity works: some size and colour of a person or a barrier."""
    (length, width, height), mesh = size, MeshBuilder()
    colour = ((70, 90, 60), (90, 96, 100), (60, 70, 110), (130, 100, 80), (150, 140, 60))[int(rng.integers(5))]
    x, y = (-length / 2, length / 2), (-width / 2, width / 2)
    shrink = float(rng.uniform(0.8, 1.0))
    top_x, top_y = (x[0] * shrink, x[1] * shrink), (y[0] * shrink, y[1] * shrink)
    part = mesh.box(x, y, (0.0, height), np.array(colour) * rng.uniform(0.7, 1.2), top_x=top_x, top_y=top_y)
    mesh.flanks(part, (0.1, 0.9), (0.6, 0.8), np.array(colour) * 0.6)
    return mesh.build()
