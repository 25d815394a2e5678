"""Convex parts and the panels painted on them: the shapes of all things in the scenes.

Object frame: x forward, y left, z up, metres, origin on the ground under the centre.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from qdbev.data.synthetic.geometry import Array

PAINT, HEAD_LIGHT, TAIL_LIGHT, WINDOW = 0, 1, 2, 3  # kinds of face; lights shine at night, tail lights when braking
Colour = Sequence[float] | Array  # RGB, 0..255
Quads = dict[str, Array]  # side -> its corners (4, 3), counter-clockwise from outside


@dataclass(frozen=True)
class Mesh:
    """Arrays of one thing: vertices (V, 3), faces (F, 4) with part, colour and kind, solids (S, 2, 3)."""

    vertices: Array
    swing: Array
    faces: NDArray[np.int64]
    face_part: NDArray[np.int64]
    colour: Array
    kind: NDArray[np.int64]
    part_centre: Array
    solids: Array


@dataclass(frozen=True)
class Part:
    """One convex part: its number and side quads."""

    number: int
    quads: Quads
    swing: tuple[float, float]


@dataclass
class MeshBuilder:
    """Collects parts and panels, then freezes them to a Mesh."""

    vertices: list[Array] = field(default_factory=list)
    swing: list[float] = field(default_factory=list)
    face_part: list[int] = field(default_factory=list)
    colour: list[Colour] = field(default_factory=list)
    kind: list[int] = field(default_factory=list)
    centres: list[Array] = field(default_factory=list)
    solids: list[Array] = field(default_factory=list)

    def box(
        self,
        x: tuple[float, float],
        y: tuple[float, float],
        z: tuple[float, float],
        colour: Colour,
        *,
        top_x: tuple[float, float] | None = None,
        top_y: tuple[float, float] | None = None,
        swing: tuple[float, float] = (0.0, 0.0),
        solid: bool = True,
    ) -> Part:
        """Add a box, or a frustum where the top differs, painted in one colour.

        Args:
            x: Extent of the bottom along x [m]; y and z likewise.
            y: See x.
            z: See x.
            colour: RGB.
            top_x: Extent of the top along x, the bottom's where None; top_y likewise.
            top_y: See top_x.
            swing: Stride of bottom and top along x [m], as of a walking leg.
            solid: Whether the LiDAR hits it.
        """
        tx, ty = top_x or x, top_y or y
        bottom = [np.array([a, b, z[0]]) for a, b in ((x[0], y[0]), (x[1], y[0]), (x[1], y[1]), (x[0], y[1]))]
        top = [np.array([a, b, z[1]]) for a, b in ((tx[0], ty[0]), (tx[1], ty[0]), (tx[1], ty[1]), (tx[0], ty[1]))]
        quads = {
            "front": np.array([bottom[1], bottom[2], top[2], top[1]]),
            "back": np.array([bottom[3], bottom[0], top[0], top[3]]),
            "left": np.array([bottom[2], bottom[3], top[3], top[2]]),
            "right": np.array([bottom[0], bottom[1], top[1], top[0]]),
            "top": np.array(top),
        }
        part = Part(len(self.centres), quads, swing)
        self.centres.append(np.mean(bottom + top, axis=0))
        for side, quad in quads.items():
            strides = [swing[1]] * 4 if side == "top" else [swing[0], swing[0], swing[1], swing[1]]
            self._face(part.number, quad, colour, PAINT, strides)
        if solid:
            lo = [min(x[0], tx[0]), min(y[0], ty[0]), z[0]]
            self.solids.append(np.array([lo, [max(x[1], tx[1]), max(y[1], ty[1]), z[1]]]))
        return part

    def panel(
        self, part: Part, side: str, u: tuple[float, float], v: tuple[float, float], colour: Colour, kind: int = PAINT
    ) -> None:
        """Paint a piece of one side: u runs along the side (front and top: right to left), v upwards, both 0..1."""
        q = part.quads[side]
        uv = np.array([(u[0], v[0]), (u[1], v[0]), (u[1], v[1]), (u[0], v[1])])
        a, b = uv[:, :1], uv[:, 1:]
        quad = (1 - a) * (1 - b) * q[0] + a * (1 - b) * q[1] + a * b * q[2] + (1 - a) * b * q[3]
        strides = [(1 - vv) * part.swing[0] + vv * part.swing[1] for vv in uv[:, 1]]
        self._face(part.number, quad, colour, kind, strides)

    def flanks(
        self, part: Part, x: tuple[float, float], v: tuple[float, float], colour: Colour, kind: int = PAINT
    ) -> None:
        """Paint the same piece of the left and the right side; x runs from the back (0) to the front (1)."""
        self.panel(part, "right", x, v, colour, kind)
        self.panel(part, "left", (1 - x[1], 1 - x[0]), v, colour, kind)

    def windows(self, part: Part, side: str, *, columns: int, floors: int, colour: Colour) -> None:
        """Windows in rows on one side of a house, on the lowest four floors."""
        q, rows = part.quads[side], min(floors, 4)
        u0, v0 = np.meshgrid((np.arange(columns) + 0.2) / columns, (np.arange(rows) + 0.35) / floors)
        u1, v1 = u0 + 0.6 / columns, v0 + 0.45 / floors
        a, b = (np.stack(c, axis=-1).reshape(-1, 4, 1) for c in ((u0, u1, u1, u0), (v0, v0, v1, v1)))
        for quad in (1 - a) * (1 - b) * q[0] + a * (1 - b) * q[1] + a * b * q[2] + (1 - a) * b * q[3]:
            self._face(part.number, quad, colour, WINDOW, [0.0] * 4)

    def wheel(self, part: Part, x: float, y: float, radius: float, *, hub: Colour = (120, 120, 125)) -> None:
        """A wheel standing on the ground at (x, y), seen from the side of y's sign; from both where y is 0."""
        for r, colour in ((radius, (24, 24, 26)), (0.5 * radius, hub)):
            angle = np.deg2rad(np.arange(22.5, 360, 45))
            ring = np.stack([x + r * np.cos(angle), np.full(8, y), radius + r * np.sin(angle)], axis=1)
            for quad in (ring[[0, 1, 2, 3]], ring[[7, 0, 3, 4]], ring[[4, 5, 6, 7]]):
                if y <= 0:
                    self._face(part.number, quad, colour, PAINT, [0.0] * 4)
                if y >= 0:
                    self._face(part.number, quad[::-1], colour, PAINT, [0.0] * 4)

    def _face(self, part: int, quad: Array, colour: Colour, kind: int, strides: Sequence[float]) -> None:
        self.vertices.append(quad)
        self.swing.extend(strides)
        self.face_part.append(part)
        self.colour.append(tuple(colour))
        self.kind.append(kind)

    def build(self) -> Mesh:
        """The finished shape."""
        count = len(self.vertices)
        return Mesh(
            vertices=np.concatenate(self.vertices),
            swing=np.array(self.swing),
            faces=np.arange(4 * count).reshape(count, 4),
            face_part=np.array(self.face_part),
            colour=np.array(self.colour, dtype=np.float64),
            kind=np.array(self.kind),
            part_centre=np.array(self.centres),
            solids=np.array(self.solids).reshape(-1, 2, 3),
        )
