"""The lie of the land of one scene: a main road, roads across it, lanes, and the path that the ego drives.

Scene frame: metres, ego near the origin at the first key frame and heading +x. Traffic keeps to the right.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qdbev.data.synthetic.geometry import Array, Path

LANE_M = 3.4
PARKING_M = 2.7
SIDEWALK_M = 3.2


@dataclass(frozen=True)
class Road:
    """A road along its centre line, with the same number of lanes in either direction."""

    centre: Path
    lanes: int

    @property
    def lanes_m(self) -> float:
        """Half width of all lanes."""
        return self.lanes * LANE_M

    @property
    def kerb_m(self) -> float:
        """From the centre line to the kerb, parking strip included."""
        return self.lanes_m + PARKING_M

    @property
    def edge_m(self) -> float:
        """From the centre line to the far side of the sidewalk."""
        return self.kerb_m + SIDEWALK_M

    def lane(self, index: int, *, forward: bool = True) -> Path:
        """The middle of a lane in driving direction; index 0 is next to the centre line."""
        path = self.centre if forward else self.centre.reversed()
        return path.shifted(-(index + 0.5) * LANE_M)


@dataclass(frozen=True)
class Layout:
    """All roads (the main road first), where others cross it, and the ego's path and motion."""

    roads: tuple[Road, ...]
    crossings_s: tuple[float, ...]
    ego_path: Path
    ego_lane: int
    ego_speed: float
    ego_acceleration: float
    turning: bool

    def crossing_near(self, s: float, *, margin_m: float) -> bool:
        """Whether arc length s of the main road lies within a crossing's area."""
        return any(abs(s - c) < margin_m for c in self.crossings_s)


def distance(times: Array, *, speed: float, acceleration: float, top: float = 12.0) -> Array:
    """Metres driven since t = 0 for a start speed and an acceleration, the speed kept within 0..top.

    >>> distance(np.array([0.0, 1.0, 2.0]), speed=4.0, acceleration=0.0).tolist()
    [0.0, 4.0, 8.0]
    """
    speeds = np.clip(speed + acceleration * times, 0, top)
    steps = np.diff(times) * (speeds[1:] + speeds[:-1]) / 2
    driven = np.concatenate([[0.0], np.cumsum(steps)])
    return driven - np.interp(0.0, times, driven)


def _centre_line(rng: np.random.Generator) -> Path:
    """A straight road, or one that bends, 0.5 m steps, arc length 0 at the origin, heading +x there."""
    s = np.arange(-120, 180.1, 1.0)
    bend = rng.choice([0.0, 1.0], p=[0.45, 0.55]) * rng.uniform(-1, 1) / 70
    wiggle = rng.uniform(0, 0.004) * np.sin(s / rng.uniform(20, 40) + rng.uniform(0, 6))
    curvature = bend * np.clip((s - rng.uniform(-60, 20)) / 30, 0, 1) + wiggle
    yaw = np.concatenate([[0.0], np.cumsum((curvature[1:] + curvature[:-1]) / 2)])
    zero = int(np.argmin(np.abs(s)))
    yaw -= yaw[zero]
    step = np.stack([np.cos((yaw[1:] + yaw[:-1]) / 2), np.sin((yaw[1:] + yaw[:-1]) / 2)], axis=1)
    points = np.concatenate([np.zeros((1, 2)), np.cumsum(step, axis=0)])
    return Path(points - points[zero], s, yaw)


def _crossing_road(main: Road, s: float, rng: np.random.Generator) -> Road:
    """A straight road across the main road at arc length s."""
    x, y, yaw = main.centre.at(s)
    angle = yaw + np.pi / 2 + rng.normal(0, 0.08)
    along = np.arange(-100, 100.1, 2.0)
    points = np.stack([x + along * np.cos(angle), y + along * np.sin(angle)], axis=1)
    return Road(Path.through(points, start=-100.0), int(rng.choice([1, 2], p=[0.8, 0.2])))


def _turning_path(lane: Path, exit_lane: Path) -> Path:
    """From one lane by a smooth curve (quadratic Bezier) into another that crosses it."""
    gaps = np.linalg.norm(lane.points[:, None] - exit_lane.points[None], axis=-1)
    i, j = np.unravel_index(int(np.argmin(gaps)), gaps.shape)
    s_in, s_out = lane.s[i] - 9.0, exit_lane.s[j] + 9.0
    t = np.linspace(0, 1, 40)[:, None]
    p0, p1, p2 = lane.at(s_in)[:2], exit_lane.points[j], exit_lane.at(s_out)[:2]
    curve = (1 - t) ** 2 * p0 + 2 * t * (1 - t) * p1 + t**2 * p2
    points = np.concatenate([lane.points[lane.s < s_in - 0.5], curve, exit_lane.points[exit_lane.s > s_out + 0.5]])
    path = Path.through(points)
    zero = np.argmin(np.linalg.norm(path.points - lane.at(0.0)[:2], axis=1))
    return Path(path.points, path.s - path.s[zero], path.yaw)


def draw_layout(rng: np.random.Generator, *, duration_s: float) -> Layout:
    """Roads and the ego's drive: cruising, turning at a crossing, braking, starting or standing."""
    main = Road(_centre_line(rng), int(rng.choice([1, 2], p=[0.6, 0.4])))
    drive = str(rng.choice(["cruise", "turn", "brake", "start", "stand"], p=[0.5, 0.2, 0.1, 0.1, 0.1]))
    turning = drive == "turn"
    speed = {"turn": rng.uniform(4, 7), "brake": rng.uniform(4, 8), "start": rng.uniform(0, 1), "stand": 0.0}
    v0 = float(speed.get(drive, rng.uniform(3, 12)))
    acceleration = {"brake": -v0 / (0.7 * duration_s + 0.5), "start": rng.uniform(1, 2)}.get(drive, 0.0)
    lane_index = int(rng.integers(main.lanes))
    crossings: list[float] = []
    if turning:
        crossings.append(float(v0 * duration_s * 0.4 + rng.uniform(2, 10)))
    elif rng.random() < 0.65:
        crossings.append(float(rng.uniform(14, 50) + (v0 * duration_s if drive in ("brake", "stand") else 0) / 2))
    if rng.random() < 0.3:
        crossings.append(float(rng.uniform(-50, -22)))
    roads = (main, *(_crossing_road(main, s, rng) for s in crossings))
    path = main.lane(lane_index)
    if turning:
        right = bool(rng.random() < 0.5)
        lane_index = main.lanes - 1 if right else 0
        path = _turning_path(main.lane(lane_index), roads[1].lane(0, forward=not right))
    return Layout(roads, tuple(crossings), path, lane_index, v0, float(acceleration), turning)
