"""All shapes of a scene as one set of arrays, and where they are at a time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qdbev.data.synthetic.geometry import Array, corners
from qdbev.data.synthetic.stage.actors import Actor
from qdbev.data.synthetic.stage.world import World


@dataclass(frozen=True)
class Moment:
    """The crowd at one time, scene frame.

    Attributes:
        ego: x, y, yaw of the ego.
        poses: x, y, yaw of all actors, (N, 3).
        speeds: Metres per second, (N,).
        braking: Whether tail lights shine, (N,).
        vertices: (V, 3).
        footprints: (N, 4, 2).
    """

    ego: Array
    poses: Array
    speeds: Array
    braking: NDArray[np.bool_]
    vertices: Array
    footprints: Array


class Crowd:
    """Shapes of all actors, concatenated once per scene."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.actors: list[Actor] = world.actors
        meshes = [a.mesh for a in self.actors]
        self.sizes = np.array([a.size_lwh for a in self.actors])
        vertex_count = [len(m.vertices) for m in meshes]
        starts = np.concatenate([[0], np.cumsum(vertex_count)[:-1]])
        parts = np.concatenate([[0], np.cumsum([len(m.part_centre) for m in meshes])[:-1]])
        index = np.arange(len(meshes))
        self.vertices = np.concatenate([m.vertices for m in meshes])
        self.swing = np.concatenate([m.swing for m in meshes])
        self.vertex_actor = np.repeat(index, vertex_count)
        self.faces = np.concatenate([m.faces + s for m, s in zip(meshes, starts, strict=True)])
        self.face_actor = np.repeat(index, [len(m.faces) for m in meshes])
        self.face_part = np.concatenate([m.face_part + p for m, p in zip(meshes, parts, strict=True)])
        self.colour = np.concatenate([m.colour for m in meshes])
        self.kind = np.concatenate([m.kind for m in meshes])
        self.part_centre = np.concatenate([m.part_centre for m in meshes])
        self.part_actor = np.repeat(index, [len(m.part_centre) for m in meshes])
        self.solids = np.concatenate([m.solids for m in meshes])
        self.solid_actor = np.repeat(index, [len(m.solids) for m in meshes])
        q = self.vertices[self.faces]
        normals = np.cross(q[:, 2] - q[:, 0], q[:, 3] - q[:, 1])
        self.normals = normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-9)
        self.tracks = np.array([a.track for a in self.actors])
        self.gaits = np.array([a.gait for a in self.actors])
        self.waits = np.array([a.role == "lane" for a in self.actors])

    def _interpolate(self, tracks: Array, time: float) -> tuple[Array, Array]:
        """Poses and planar velocity (..., 2) at a time, linear between the times of the world."""
        times = self.world.times
        step = times[1] - times[0]
        position = np.clip((time - times[0]) / step, 0, len(times) - 1.001)
        k = int(position)
        a, b = tracks[..., k, :], tracks[..., k + 1, :]
        return a + (position - k) * (b - a), (b - a)[..., :2] / step

    def ego(self, time: float) -> Array:
        """x, y, yaw of the ego in the scene frame."""
        return self._interpolate(self.world.ego_track, time)[0]

    def at(self, time: float) -> Moment:
        """Where everything is at a time [s] from the first key frame."""
        poses, velocity = self._interpolate(self.tracks, time)
        speeds = np.hypot(velocity[:, 0], velocity[:, 1])
        earlier = np.linalg.norm(self._interpolate(self.tracks, time - 0.3)[1], axis=1)
        angle = self.gaits[:, 0] * time + self.gaits[:, 1]
        local = self.vertices.copy()
        local[:, 0] += 0.5 * self.swing * np.sin(angle)[self.vertex_actor] * (self.gaits[:, 1] != 0)[self.vertex_actor]
        return Moment(
            ego=self.ego(time),
            poses=poses,
            speeds=speeds,
            braking=self.waits & ((speeds < 0.3) | (speeds < earlier - 0.15)),
            vertices=self.place(local, self.vertex_actor, poses),
            footprints=corners(poses, length=self.sizes[:, 0], width=self.sizes[:, 1]),
        )

    @staticmethod
    def place(points: Array, actor: NDArray[np.int64], poses: Array) -> Array:
        """Points (M, 3) of actors (M,) from object frames into the scene frame."""
        x, y, yaw = poses[actor].T
        cos, sin = np.cos(yaw), np.sin(yaw)
        return np.stack(
            [x + cos * points[:, 0] - sin * points[:, 1], y + sin * points[:, 0] + cos * points[:, 1], points[:, 2]], 1
        )
