"""LiDAR sweeps: 32 beams ray-cast against the boxes of the same world and its flat ground."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qdbev.data.synthetic.geometry import Array
from qdbev.data.synthetic.sensors.cameras import Sensor
from qdbev.data.synthetic.stage.crowd import Crowd, Moment

BEAMS = 32
COLUMNS = 540
RANGE_M = 70.0
_ELEVATION_DEG = (-30.67, 10.67)  # of the 32-beam sensor in nuScenes
_NOISE_M = 0.01
_GROUND_M = 0.015  # the ground's returns lie this deep, so that none under a box counts as the box's
_MARGIN_M = 0.025  # surfaces lie this much inside a box, so that noise keeps points within it


@dataclass(frozen=True)
class Sweep:
    """Points float32 (P, 5): x, y, z [m] in the LiDAR frame, intensity, ring; and hits of each actor (N,)."""

    points: NDArray[np.float32]
    hits: NDArray[np.int64]


def _directions(sensor: Sensor) -> tuple[Array, Array]:
    """Unit rays (COLUMNS, BEAMS, 3) in the sensor frame and in the ego frame, columns by azimuth in the ego frame."""
    elevation = np.deg2rad(np.linspace(*_ELEVATION_DEG, BEAMS))
    azimuth = np.linspace(-np.pi, np.pi, COLUMNS, endpoint=False) + np.pi / COLUMNS
    az, el = np.meshgrid(azimuth, elevation, indexing="ij")
    sensor_yaw = np.arctan2(sensor.rotation[1, 0], sensor.rotation[0, 0])
    local = az - sensor_yaw
    rays = np.stack([np.cos(el) * np.cos(local), np.cos(el) * np.sin(local), np.sin(el)], axis=-1)
    return rays, rays @ sensor.rotation.T


class Scanner:
    """The LiDAR of one scene."""

    def __init__(self, crowd: Crowd, sensor: Sensor) -> None:
        self.crowd, self.sensor = crowd, sensor
        self.local_rays, self.rays = _directions(sensor)
        sizes = crowd.sizes
        lo, hi = crowd.solids[:, 0].copy(), crowd.solids[:, 1].copy()
        half = np.stack([sizes[:, 0] / 2, sizes[:, 1] / 2], axis=1)[crowd.solid_actor] - _MARGIN_M
        lo[:, :2], hi[:, :2] = np.maximum(lo[:, :2], -half), np.minimum(hi[:, :2], half)
        self.lo = np.maximum(lo, [-np.inf, -np.inf, _MARGIN_M])
        self.hi = np.minimum(hi, np.c_[np.full((len(lo), 2), np.inf), sizes[crowd.solid_actor, 2] - _MARGIN_M])

    def sweep(self, moment: Moment, rng: np.random.Generator) -> Sweep:
        """One turn of the LiDAR, all rays at one time."""
        ranges = np.full((COLUMNS, BEAMS), np.inf)
        down = self.rays[..., 2] < -1e-3
        ranges[down] = -(self.sensor.translation[2] + _GROUND_M) / self.rays[..., 2][down]
        owner = np.full((COLUMNS, BEAMS), -1)
        self._cast(moment, ranges, owner)
        hit = (ranges < RANGE_M) & (rng.random(ranges.shape) > 0.03)
        distances = ranges[hit] + np.clip(rng.normal(0, _NOISE_M, int(hit.sum())), -2 * _NOISE_M, 2 * _NOISE_M)
        points = self.local_rays[hit] * distances[:, None]
        ring = np.broadcast_to(np.arange(BEAMS), ranges.shape)[hit]
        intensity = np.where(owner[hit] >= 0, 30.0, 12.0) * rng.uniform(0.4, 1.6, len(ring))
        table = np.column_stack([points, np.floor(intensity), ring]).astype(np.float32)
        owners = owner[hit]
        return Sweep(table, np.bincount(owners[owners >= 0], minlength=len(self.crowd.actors)))

    def _cast(self, moment: Moment, ranges: Array, owner: NDArray[np.int64]) -> None:
        """Shorten ranges where a solid is hit first, and note whose it is."""
        ego, origin = moment.ego, self.sensor.translation
        cos, sin = np.cos(ego[2]), np.sin(ego[2])
        shift = moment.poses[:, :2] - ego[:2]
        x, y = cos * shift[:, 0] + sin * shift[:, 1] - origin[0], -sin * shift[:, 0] + cos * shift[:, 1] - origin[1]
        solid, column = self._candidates(x, y)
        actor = self.crowd.solid_actor[solid]
        places = np.stack([x, y, np.full(len(x), -origin[2])], axis=1)[actor]
        near = self._slab(solid, column, places, moment.poses[actor, 2] - ego[2])
        starts = np.flatnonzero(np.diff(column, prepend=-1))
        nearest = np.minimum.reduceat(near, starts, axis=0)
        group = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(column)))
        columns = column[starts]
        first = (near == nearest[group]) & (near < ranges[column])
        pair, beam = np.nonzero(first)
        owner[column[pair], beam] = actor[pair]
        ranges[columns] = np.minimum(ranges[columns], nearest)

    def _candidates(self, x: Array, y: Array) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Pairs of a solid and a column of rays that may hit it, sorted by column; x, y of actors from the sensor."""
        step = 2 * np.pi / COLUMNS
        side = np.hypot(self.crowd.sizes[:, 0], self.crowd.sizes[:, 1]) / 2
        gap = np.hypot(x, y)
        reach = np.where(gap > 1.05 * side, np.arcsin(np.minimum(side / np.maximum(gap, 1e-6), 1)), np.pi)
        azimuth = np.arctan2(y, x) + np.pi
        first = np.floor((azimuth - reach) / step).astype(int)
        count = np.minimum(np.ceil((azimuth + reach) / step).astype(int) - first + 1, COLUMNS)
        solids = np.flatnonzero((gap - side)[self.crowd.solid_actor] < RANGE_M)
        actor = self.crowd.solid_actor[solids]
        solid = np.repeat(solids, count[actor])
        within = np.arange(len(solid)) - np.repeat(np.cumsum(count[actor]) - count[actor], count[actor])
        column = (np.repeat(first[actor], count[actor]) + within) % COLUMNS
        order = np.argsort(column, kind="stable")
        return solid[order], column[order]

    def _slab(self, solid: NDArray[np.int64], column: NDArray[np.int64], places: Array, yaw: Array) -> Array:
        """Distance (pairs, BEAMS) at which rays enter solids, infinite where they miss: the slab test."""
        cos, sin = np.cos(yaw), np.sin(yaw)
        rays = self.rays[column]
        c, s = cos[:, None], sin[:, None]
        turned = (c * rays[..., 0] + s * rays[..., 1], c * rays[..., 1] - s * rays[..., 0], rays[..., 2])
        starts = (-(cos * places[:, 0] + sin * places[:, 1]), sin * places[:, 0] - cos * places[:, 1], -places[:, 2])
        near, far = np.zeros(turned[0].shape), np.full(turned[0].shape, np.inf)
        for axis, (d, start) in enumerate(zip(turned, starts, strict=True)):
            inverse = 1 / np.where(np.abs(d) < 1e-9, 1e-9, d)
            a = (self.lo[solid, axis] - start)[:, None] * inverse
            b = (self.hi[solid, axis] - start)[:, None] * inverse
            near, far = np.maximum(near, np.minimum(a, b)), np.minimum(far, np.maximum(a, b))
        return np.where((near <= far) & (near > 0.5), near, np.inf)
