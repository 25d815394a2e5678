"""Things in a scene and how they move; the stage refuses what would stand inside something else."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from qdbev.data.synthetic.geometry import Array, corners, overlap
from qdbev.data.synthetic.shapes.mesh import Mesh

EGO_SIZE_M = (4.8, 2.0)


@dataclass(frozen=True)
class Actor:
    """One thing: what it is, its box, its poses at the stage's times, and its shape.

    Attributes:
        label: Detection class, or "" for scenery without annotation.
        category: nuScenes category name, or "".
        size_lwh: Length, width, height [m].
        track: x, y, yaw at each time, (K, 3).
        mesh: The shape.
        role: parked, lane, walk, stand, sit, ridden, idle, fixed: decides the attribute.
        gait: Angular speed [rad/s] and phase [rad] of the legs.
    """

    label: str
    category: str
    size_lwh: Array
    track: Array
    mesh: Mesh
    role: str
    gait: tuple[float, float] = (0.0, 0.0)

    def attribute(self, speed: float) -> str:
        """The nuScenes attribute at a speed [m/s], "" for classes without any."""
        if self.label in ("barrier", "traffic_cone", "animal", "traffic_sign", ""):
            return ""
        if self.label in ("bicycle", "motorcycle"):
            return "cycle.with_rider" if self.role == "ridden" else "cycle.without_rider"
        if self.label == "pedestrian":
            if self.role == "sit":
                return "pedestrian.sitting_lying_down"
            return "pedestrian.moving" if speed > 0.2 else "pedestrian.standing"
        if speed > 0.4:
            return "vehicle.moving"
        return "vehicle.stopped" if self.role == "lane" else "vehicle.parked"


@dataclass
class Stage:
    """The actors placed so far, with their footprints at a few times."""

    times: Array
    ego_track: Array
    actors: list[Actor] = field(default_factory=list)
    footprints: list[Array] = field(default_factory=list)

    def __post_init__(self) -> None:
        """The ego vehicle is the first thing on the stage."""
        self._probe = np.linspace(0, len(self.times) - 1, 5).astype(int)
        ego = self.ego_track[self._probe].copy()
        ego[:, :2] += 1.3 * np.stack([np.cos(ego[:, 2]), np.sin(ego[:, 2])], axis=1)
        self.footprints.append(corners(ego, length=EGO_SIZE_M[0] + 1.6, width=EGO_SIZE_M[1] + 0.3))

    def still(self, pose: Array) -> Array:
        """The track of something that stays at a pose (3,)."""
        return np.tile(np.asarray(pose, dtype=np.float64), (len(self.times), 1))

    def has_room(self, track: Array, size_lwh: Array, *, clearance_m: float) -> bool:
        """Whether a box on a track (K, 3) touches nothing at any of the probed times."""
        own = self._footprint(track, size_lwh, clearance_m)
        others = np.array(self.footprints)
        near = np.abs(others[:, :, 0] - own[:, 0]).max(-1).min(1) < 20
        return not overlap(own, others[near]).any()

    def add(self, actor: Actor, *, clearance_m: float = 0.35) -> bool:
        """Place the actor unless it would touch another at some time."""
        if not self.has_room(actor.track, actor.size_lwh, clearance_m=clearance_m):
            return False
        self.put(actor, clearance_m=clearance_m)
        return True

    def put(self, actor: Actor, *, clearance_m: float) -> None:
        """Place an actor that is known to have room."""
        self.actors.append(actor)
        self.footprints.append(self._footprint(actor.track, actor.size_lwh, clearance_m))

    def _footprint(self, track: Array, size_lwh: Array, clearance_m: float) -> Array:
        """Corners (times, 4, 2) with half the clearance on each side."""
        length, width = size_lwh[:2] + clearance_m
        return corners(track[self._probe], length=length, width=width)
