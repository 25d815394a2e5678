"""The ground of one scene, painted once from above: grass or paving, sidewalks, asphalt, markings."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from qdbev.data.synthetic.geometry import Array, Path
from qdbev.data.synthetic.noise import patch
from qdbev.data.synthetic.stage.roads import LANE_M, Layout, Road

MARGIN_M = 75.0
_SHIFT = 4


@dataclass(frozen=True)
class Ground:
    """Albedo from above, RGB float32 (H, W, 3), with its corner (x, y) [m] and metres per pixel; also a coarse copy."""

    fine: NDArray[np.float32]
    coarse: NDArray[np.float32]
    corner: Array
    metres_per_px: float


class _Canvas:
    """Strokes and areas in metres on an image from above."""

    def __init__(self, corner: Array, size_m: Array, metres_per_px: float) -> None:
        self.corner, self.scale = corner, 1 / metres_per_px
        width, height = np.ceil(size_m * self.scale).astype(int)
        self.image = np.zeros((height, width, 3), np.uint8)

    def _px(self, points: Array) -> NDArray[np.int32]:
        return np.round((points - self.corner) * self.scale * (1 << _SHIFT)).astype(np.int32)

    def stroke(self, points: Array, width_m: float, colour: Array) -> None:
        thickness = max(1, round(width_m * self.scale))
        rgb = tuple(float(c) for c in colour)
        cv2.polylines(self.image, [self._px(points)], False, rgb, thickness, cv2.LINE_AA, _SHIFT)

    def area(self, points: Array, colour: Array) -> None:
        rgb = tuple(float(c) for c in colour)
        cv2.fillConvexPoly(self.image, self._px(points), rgb, cv2.LINE_AA, _SHIFT)


def paint_ground(rng: np.random.Generator, layout: Layout, *, ego_track: Array, metres_per_px: float) -> Ground:
    """Paint all roads of a layout as far as a camera may see."""
    low = ego_track[:, :2].min(0) - MARGIN_M
    high = ego_track[:, :2].max(0) + MARGIN_M
    canvas = _Canvas(low, high - low, metres_per_px)
    soil = ((92, 112, 70), (150, 146, 138), (134, 118, 94))[int(rng.choice([0, 1, 2], p=[0.5, 0.3, 0.2]))]
    asphalt = np.clip(rng.normal(88, 12) + rng.normal(0, 3, 3), 55, 125)
    canvas.image[:] = np.array(soil, dtype=np.uint8)
    _paint_roads(canvas, layout, asphalt, rng)
    image = canvas.image.astype(np.float32)
    shape = (image.shape[0], image.shape[1])
    texture = 0.05 * patch(rng, shape=shape) + 0.06 * patch(rng, shape=shape, smoothness=8)
    image *= (1 + texture + 0.06 * patch(rng, shape=shape, smoothness=64))[..., None]
    coarse = np.asarray(cv2.resize(image, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA), dtype=np.float32)
    return Ground(image, coarse, low, metres_per_px)


def _paint_roads(canvas: _Canvas, layout: Layout, asphalt: Array, rng: np.random.Generator) -> None:
    paving = np.clip(rng.normal(158, 12) + rng.normal(0, 4, 3), 110, 200)
    for road in layout.roads:
        canvas.stroke(road.centre.points, 2 * road.edge_m, paving)
    for road in layout.roads:
        canvas.stroke(road.centre.points, 2 * road.kerb_m + 0.3, paving * 0.75)
    for road in layout.roads:
        canvas.stroke(road.centre.points, 2 * road.kerb_m, asphalt)
    for _ in range(6):
        s, aside = float(rng.uniform(-60, 90)), float(rng.uniform(-6, 6))
        x, y, yaw = layout.roads[0].centre.shifted(aside).at(s)
        ahead = np.array([np.cos(yaw), np.sin(yaw)]) * float(rng.uniform(2, 9))
        canvas.stroke(
            np.array([[x, y], [x + ahead[0], y + ahead[1]]]),
            float(rng.uniform(0.6, 2)),
            asphalt * rng.uniform(0.8, 1.15),
        )
    white = np.array([226.0, 226.0, 220.0]) * float(rng.uniform(0.75, 1.0))
    for number, road in enumerate(layout.roads):
        gaps = layout.crossings_s if number == 0 else (0.0,)
        _paint_markings(canvas, road, white, gaps)
    main = layout.roads[0]
    for s in layout.crossings_s:
        _paint_zebra(canvas, main.centre, s, main.kerb_m, white)


def _pieces(path: Path, gaps: tuple[float, ...], *, gap_m: float) -> list[Array]:
    """The parts of a path outside the crossings."""
    free = np.all([np.abs(path.s - g) > gap_m for g in gaps], axis=0) if gaps else np.ones(len(path.s), bool)
    runs = np.split(np.arange(len(free)), np.flatnonzero(np.diff(free)) + 1)
    return [path.points[run] for run in runs if free[run[0]] and len(run) > 1]


def _paint_markings(canvas: _Canvas, road: Road, white: Array, gaps: tuple[float, ...]) -> None:
    """Yellow centre line, broken white lines between lanes, a line before the parking strip."""
    for piece in _pieces(road.centre, gaps, gap_m=10.0):
        canvas.stroke(piece, 0.22, np.array([214.0, 170.0, 60.0]))
    for side in (-1, 1):
        for piece in _pieces(road.centre.shifted(side * road.lanes_m), gaps, gap_m=10.0):
            canvas.stroke(piece, 0.14, white)
        for lane in range(1, road.lanes):
            line = road.centre.shifted(side * lane * LANE_M)
            for s in np.arange(road.centre.s[0], road.centre.s[-1] - 3, 7.0):
                if all(abs(s + 1.5 - g) > 11 for g in gaps):
                    canvas.stroke(line.at(np.linspace(s, s + 3, 3))[:, :2], 0.16, white)


def _paint_zebra(canvas: _Canvas, centre: Path, s: float, half_m: float, white: Array) -> None:
    """A zebra crossing and a stop line on either side of a crossing."""
    for sign in (-1, 1):
        for aside in np.arange(-half_m + 0.5, half_m, 1.1):
            bar = centre.shifted(float(aside)).at(np.array([s + sign * 9.5, s + sign * 12.5]))[:, :2]
            canvas.stroke(bar, 0.5, white)
        x, y, yaw = centre.at(s + sign * 13.6)
        across = np.array([-np.sin(yaw), np.cos(yaw)]) * sign
        canvas.stroke(np.array([[x, y], [x, y] + across * half_m]), 0.35, white)
