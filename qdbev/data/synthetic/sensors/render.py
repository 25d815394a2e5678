"""Camera images by the painter's algorithm: one buffer of face numbers, coloured by light, fog and texture."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from qdbev.data.synthetic.geometry import Array
from qdbev.data.synthetic.noise import patch
from qdbev.data.synthetic.sensors.appearance import Appearance
from qdbev.data.synthetic.sensors.lens import develop
from qdbev.data.synthetic.sensors.painting import paint_order
from qdbev.data.synthetic.sensors.view import View, headlight
from qdbev.data.synthetic.shapes.mesh import HEAD_LIGHT, PAINT, TAIL_LIGHT, WINDOW
from qdbev.data.synthetic.stage.crowd import Crowd, Moment

NEAR_M = 0.25
_SHIFT = 4
_LIMIT_PX = 6000.0


@dataclass(frozen=True)
class Shot:
    """An image, RGB uint8 (H, W, 3), and for each actor its pixels seen and its pixels if nothing hid it."""

    image: NDArray[np.uint8]
    seen_px: Array
    alone_px: Array


def clip_near(polygon: Array, *, near: float = NEAR_M) -> Array:
    """The part of a convex polygon (n, 3) in camera coordinates with z >= near."""
    kept = []
    for k in range(len(polygon)):
        p, q = polygon[k - 1], polygon[k]
        if (p[2] >= near) != (q[2] >= near):
            kept.append(p + (q - p) * ((near - p[2]) / (q[2] - p[2])))
        if q[2] >= near:
            kept.append(q)
    return np.array(kept).reshape(-1, 3)


class Painter:
    """Paints the crowd of one scene as one camera sees it.

    Args:
        crowd: The shapes.
        view: The camera.
        appearance: Light and weather.
        camera: Index of the camera, for its exposure and white balance.
        supersampling: Pixels of the buffer per pixel of the image along either axis.
    """

    def __init__(self, crowd: Crowd, view: View, *, appearance: Appearance, camera: int, supersampling: int) -> None:
        self.crowd, self.view, self.look = crowd, view, appearance
        self.camera, self.supersampling = camera, supersampling
        self.radius = np.linalg.norm(crowd.sizes, axis=1) / 2
        edges = np.array([[0, 0], [view.width, 0], [view.width, view.height], [0, view.height]], dtype=np.float64)
        edges += np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
        rays = np.concatenate([edges, np.ones((4, 1))], axis=1) @ np.linalg.inv(view.intrinsic).T
        planes = np.cross(rays, np.roll(rays, -1, axis=0))
        self.planes = planes / np.linalg.norm(planes, axis=1, keepdims=True)  # inward normals of the view's sides

    def shoot(self, moment: Moment, rng: np.random.Generator) -> Shot:
        """Render one image."""
        rotation, eye = self._pose(moment.ego)
        in_camera = (moment.vertices - eye) @ rotation
        chosen, face_ids, count = self._visible(in_camera, moment, rotation, eye)
        buffer, seen, alone = self._paint(in_camera, face_ids, chosen, moment, eye, count)
        image = self.view.background(moment.ego, self._shadows(moment, chosen, rotation, eye), rng)
        cover = self._composite(image, buffer, self._colours(in_camera, face_ids, moment))
        self._add_texture(image, cover, rng)
        lamps = self._lamps(in_camera, face_ids, buffer, moment)
        developed = develop(image, lamps, appearance=self.look, camera=self.camera, rng=rng)
        area = self.supersampling**2
        return Shot(developed, seen / area, alone / area)

    def _composite(
        self, image: NDArray[np.float32], buffer: NDArray[np.int32], table: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Put the painted faces over the background, in place; returns how much of each pixel they cover."""
        rows = np.flatnonzero(buffer.any(1))
        cover = np.zeros(image.shape[:2], np.float32)
        if len(rows) == 0:
            return cover
        factor = self.supersampling
        first, last = rows[0] // factor, rows[-1] // factor + 1
        colours = np.concatenate([np.zeros((1, 4), np.float32), np.c_[table, np.ones(len(table), np.float32)]])
        painted = colours[buffer[first * factor : last * factor]]
        if factor > 1:
            size = (image.shape[1], int(last - first))
            painted = cv2.resize(painted, size, interpolation=cv2.INTER_AREA)
        cover[first:last] = painted[..., 3]
        image[first:last] *= 1 - painted[..., 3:]
        image[first:last] += painted[..., :3]
        return cover

    def _add_texture(self, image: NDArray[np.float32], cover: NDArray[np.float32], rng: np.random.Generator) -> None:
        """Roughen all surfaces but the sky."""
        rough = np.where(self.view.is_sky, cover, 1)
        image *= (1 + self.look.texture * rough * patch(rng, shape=(cover.shape[0], cover.shape[1]), smoothness=2))[
            ..., None
        ]

    def _pose(self, ego: Array) -> tuple[Array, Array]:
        cos, sin = np.cos(ego[2]), np.sin(ego[2])
        turn = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
        return turn @ self.view.rotation, turn @ self.view.position + np.array([ego[0], ego[1], 0])

    def _visible(
        self, in_camera: Array, moment: Moment, rotation: Array, eye: Array
    ) -> tuple[list[int], NDArray[np.int64], int]:
        """Actors in view from back to front, and the front faces that may be seen."""
        centres = np.concatenate([moment.poses[:, :2], self.crowd.sizes[:, 2:] / 2], axis=1)
        local = (centres - eye) @ rotation
        inside = ((local @ self.planes.T) > -self.radius[:, None]).all(1) & (local[:, 2] > -self.radius)
        inside &= np.hypot(local[:, 0], local[:, 2]) < 110
        candidates = np.flatnonzero(inside)
        order = candidates[paint_order(moment.footprints[candidates], eye[:2])].tolist()
        faces = np.flatnonzero(inside[self.crowd.face_actor])
        quads = in_camera[self.crowd.faces[faces]]
        normal = np.cross(quads[:, 2] - quads[:, 0], quads[:, 3] - quads[:, 1])
        facing = np.einsum("fd,fd->f", normal, quads.mean(1)) < 0
        ahead = (quads[..., 2] > NEAR_M).any(1)
        return order, faces[facing & ahead], len(inside)

    def _sorted_faces(self, in_camera: Array, faces: NDArray[np.int64], moment: Moment, eye: Array) -> Array:
        """Faces by actor, then by part from back to front, then as built."""
        crowd = self.crowd
        used = np.unique(crowd.face_part[faces])
        placed = crowd.place(crowd.part_centre[used], crowd.part_actor[used], moment.poses)
        gap = np.zeros(len(crowd.part_centre))
        gap[used] = np.linalg.norm(placed - eye, axis=1)
        return np.lexsort((faces, -gap[crowd.face_part[faces]], crowd.face_actor[faces]))

    def _paint(
        self,
        in_camera: Array,
        faces: NDArray[np.int64],
        order: list[int],
        moment: Moment,
        eye: Array,
        count: int,
    ) -> tuple[NDArray[np.int32], Array, Array]:
        """The buffer of 1 + index into faces, and the pixels of each actor seen and alone."""
        crowd = self.crowd
        height, width = self.view.height * self.supersampling, self.view.width * self.supersampling
        buffer = np.zeros((height, width), np.int32)
        seen, alone = np.zeros(count), np.zeros(count)
        ranks = self._sorted_faces(in_camera, faces, moment, eye)
        actors = crowd.face_actor[faces][ranks]
        polygons, whole = self._polygons(in_camera, faces)
        starts = np.searchsorted(actors, order, side="left").tolist()
        ends = np.searchsorted(actors, order, side="right").tolist()
        lows, highs = polygons.min(1) >> _SHIFT, (polygons.max(1) >> _SHIFT) + 2
        ranked = ranks.tolist()
        for actor, start, end in zip(order, starts, ends, strict=True):
            if start == end:
                continue
            for rank in ranked[start:end]:
                quad = polygons[rank] if whole[rank] else self._clipped(in_camera[crowd.faces[faces[rank]]])
                if len(quad) > 2:
                    cv2.fillConvexPoly(buffer, quad, (rank + 1,), cv2.LINE_8, _SHIFT)
            if crowd.actors[actor].label:
                mine = ranks[start:end]
                partial = not whole[mine].all()
                (x0, y0), (x1, y1) = (
                    ((0, 0), (width, height))
                    if partial
                    else (
                        np.maximum(lows[mine].min(0), 0),
                        np.maximum(highs[mine].max(0), 0),
                    )
                )
                window = buffer[y0:y1, x0:x1]
                if window.size:
                    owner = np.zeros(len(faces) + 1, bool)
                    owner[mine + 1] = True
                    alone[actor] = np.count_nonzero(owner[window])
        owner_of = np.concatenate([[count], crowd.face_actor[faces]])
        seen = np.bincount(owner_of[buffer.ravel()], minlength=count + 1)[:count].astype(np.float64)
        return buffer, seen, alone

    def _polygons(self, in_camera: Array, faces: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """Fixed-point pixels (F, 4, 2) of faces, and which lie wholly before the near plane."""
        quads = in_camera[self.crowd.faces[faces]]
        return self._pixels(quads), (quads[..., 2] >= NEAR_M).all(1)

    def _pixels(self, points: Array, *, factor: int | None = None) -> NDArray[np.int32]:
        """Fixed-point pixels of points in camera coordinates, in the buffer or, for factor 1, in the image."""
        k = self.view.intrinsic * (factor or self.supersampling)
        z = np.maximum(points[..., 2], NEAR_M)
        u = k[0, 0] * points[..., 0] / z + k[0, 2] - 0.5
        v = k[1, 1] * points[..., 1] / z + k[1, 2] - 0.5
        pixels = np.clip(np.stack([u, v], axis=-1), -_LIMIT_PX, _LIMIT_PX)
        return np.round(pixels * (1 << _SHIFT)).astype(np.int32)

    def _clipped(self, polygon: Array) -> NDArray[np.int32]:
        return self._pixels(clip_near(polygon))

    def _colours(self, in_camera: Array, faces: NDArray[np.int64], moment: Moment) -> NDArray[np.float32]:
        """Lit colours of faces after fog, (F, 3)."""
        crowd, look = self.crowd, self.look
        yaw = moment.poses[crowd.face_actor[faces], 2]
        n, kind = crowd.normals[faces], crowd.kind[faces]
        cos, sin = np.cos(yaw), np.sin(yaw)
        towards = (cos * n[:, 0] - sin * n[:, 1]) * look.sun[0] + (sin * n[:, 0] + cos * n[:, 1]) * look.sun[1]
        direct = np.maximum(towards + n[:, 2] * look.sun[2], 0)[:, None]
        middle = in_camera[crowd.faces[faces]].mean(1)
        light = look.ambient * (0.85 + 0.3 * n[:, 2:]) + look.sunlight * direct * 1.3
        if look.hour != "day":
            place = middle @ self.view.rotation.T + self.view.position
            light = light + headlight(place[:, 0], place[:, 1])[:, None] * np.array([0.6, 0.58, 0.5])
        colour = crowd.colour[faces] * light
        colour[kind == WINDOW] += 0.12 * look.sky_low
        colour += self._shining(faces, kind, moment)
        through = np.exp(-look.fog_per_m * np.linalg.norm(middle, axis=1))[:, None]
        return (colour * through + look.sky_low * (1 - through)).astype(np.float32)

    def _shining(self, faces: NDArray[np.int64], kind: NDArray[np.int64], moment: Moment) -> Array:
        """Light that lamps and lit windows send out by themselves, (F, 3)."""
        actor = self.crowd.face_actor[faces]
        awake = np.array([a.role in ("lane", "ridden") for a in self.crowd.actors])[actor]
        dark, shine = self.look.hour != "day", np.zeros((len(faces), 3))
        if dark or self.look.weather in ("rain", "fog"):
            shine[(kind == HEAD_LIGHT) & awake] = [230, 224, 196]
            shine[(kind == TAIL_LIGHT) & awake] = [110, 8, 8]
        shine[(kind == TAIL_LIGHT) & moment.braking[actor]] = [225, 30, 20]
        if dark:
            lit = (kind == WINDOW) & (faces % 3 == 0) & ~awake
            labelled = np.array([bool(a.label) for a in self.crowd.actors])[actor]
            shine[lit & ~labelled] = [110, 90, 50]
        return shine

    def _lamps(
        self, in_camera: Array, faces: NDArray[np.int64], buffer: NDArray[np.int32], moment: Moment
    ) -> list[tuple[int, int, float, Array]]:
        """Lamps to put a glow around: x, y, radius [px], RGB."""
        kind = self.crowd.kind[faces]
        shine = self._shining(faces, kind, moment)
        bright = np.flatnonzero((shine.max(1) > 100) & (kind != WINDOW) & (kind != PAINT))
        lamps = []
        for i in bright.tolist():
            middle = in_camera[self.crowd.faces[faces[i]]].mean(0)
            x, y = (self._pixels(middle) >> _SHIFT).tolist()
            if middle[2] > 1 and 0 <= x < buffer.shape[1] and 0 <= y < buffer.shape[0]:
                hit = int(buffer[y, x])
                if hit and self.crowd.face_actor[faces[hit - 1]] == self.crowd.face_actor[faces[i]]:
                    radius = 0.28 * self.view.intrinsic[0, 0] / middle[2]
                    lamps.append((x // self.supersampling, y // self.supersampling, radius, shine[i]))
        return lamps

    def _shadows(self, moment: Moment, order: list[int], rotation: Array, eye: Array) -> NDArray[np.uint8]:
        """Where things keep the sun off the ground, or at least darken it below themselves, uint8 mask."""
        mask = np.zeros((self.view.height, self.view.width), np.uint8)
        sun = self.look.sun
        slant = -sun[:2] / max(sun[2], 0.25) if self.look.sunlight.max() > 0.2 else np.zeros(2)
        for actor in order:
            foot = moment.footprints[actor]
            if self.crowd.sizes[actor, 0] < 0.35 or np.linalg.norm(foot[0] - eye[:2]) > 40:
                continue
            height = min(float(self.crowd.sizes[actor, 2]), 6.0)
            area = np.concatenate([foot, foot + slant * height]).astype(np.float32)
            hull = cv2.convexHull(area)[:, 0]
            local = (np.concatenate([hull, np.zeros((len(hull), 1))], axis=1) - eye) @ rotation
            pixels = self._pixels(clip_near(local), factor=1)
            if len(pixels) > 2:
                cv2.fillConvexPoly(mask, pixels, (255.0,), cv2.LINE_AA, _SHIFT)
        return mask
