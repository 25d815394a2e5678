"""Sensors of key frames: the rig is whole, poses and calibration are finite, cameras look where their names say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from nuscenes import NuScenes

from qdbev.data.geometry import rotation_matrices
from qdbev.data.nuscenes.findings import Finding, warning
from qdbev.data.nuscenes.layout import NUSCENES, Layout
from qdbev.data.nuscenes.rig import MOUNTS

UNIT_TOLERANCE = 1e-3
_RIG_DEGREES = 60.0
_FASTEST_MPS = 100.0
_UPRIGHT_DEGREES = 60.0
_LONG_WAY_M = 10.0
_SHORTEST_FOCAL = 0.05  # of the side of an image: 168 degrees are seen, more than a pinhole shows
_LATEST_US = 500_000

Row = dict[str, Any]
_USUAL = {mount.channel: mount.rotation for mount in MOUNTS}
Array = NDArray[np.float64]


def sensor_findings(
    tables: NuScenes, *, chains: Sequence[Sequence[Row]], layout: Layout = NUSCENES
) -> Iterator[Finding]:
    """What is wrong with the sensors of the key frames.

    Args:
        tables: Of sound structure.
        chains: Rows of ``sample``, scene by scene.
        layout: Which sensors are read.
    """
    samples = [sample for chain in chains for sample in chain]
    lacking = list(_lacking(samples, layout=layout))
    yield from lacking
    yield from _twice(tables, samples=samples)
    rows = [tables.get("sample_data", token) for sample in samples for token in _read(sample, layout=layout)]
    yield from _files(rows, layout=layout)
    yield from _clocks(tables, rows=rows)
    yield from _poses(tables, rows=rows)
    yield from _calibrations(tables, rows=rows, layout=layout)
    if not lacking:
        yield from _jumps(tables, chains=chains, clock=layout.clock)


def _read(sample: Row, *, layout: Layout) -> list[str]:
    return [sample["data"][name] for name in layout.sensors if name in sample["data"]]


def _lacking(samples: Sequence[Row], *, layout: Layout) -> Iterator[Finding]:
    for name in layout.sensors:
        if without := [sample["token"] for sample in samples if name not in sample["data"]]:
            if name == layout.lidar:
                kind = "its pose is the frame of all boxes"
            else:
                kind = f"data.rig names {len(layout.cameras)} cameras, and a detector reads all of them"
            yield Finding(
                "camera", "sample_data", without[0],
                f"{len(without)} of {len(samples)} samples have no key frame of {name}, first {without[0]}; {kind}",
            )  # fmt: skip


def _twice(tables: NuScenes, *, samples: Sequence[Row]) -> Iterator[Finding]:
    """Two key frames of one sensor in a sample: the devkit silently takes the later row."""
    meant = {token for sample in samples for token in sample["data"].values()}
    known = {sample["token"] for sample in samples}
    for row in tables.sample_data:
        if row["is_key_frame"] and row["sample_token"] in known and row["token"] not in meant:
            sentence = f"sample {row['sample_token']} has two key frames of {row['channel']}: {row['token']} is one"
            yield Finding("camera", "sample_data", row["token"], sentence)


def _files(rows: Sequence[Row], *, layout: Layout) -> Iterator[Finding]:
    seen: dict[str, str] = {}
    for row in rows:
        name, token, channel = row["filename"], row["token"], row["channel"]
        if name in seen:
            yield Finding("file", "sample_data", token, f"sample_data {token} and {seen[name]} have one file, {name}")
        seen[name] = token
        folder = PurePosixPath(name).parent.name
        if folder != channel and folder in layout.sensors:
            yield Finding("file", "sample_data", token, f"sample_data {token} is of {channel}, its file of {folder}")
        if channel != layout.lidar and not (row["width"] and row["height"]):
            yield Finding("image", "sample_data", token, f"the image of sample_data {token} has no width or height")


def _clocks(tables: NuScenes, *, rows: Sequence[Row]) -> Iterator[Finding]:
    for row in rows:
        apart_us = abs(row["timestamp"] - tables.get("sample", row["sample_token"])["timestamp"])
        if apart_us > _LATEST_US:
            sentence = f"sample_data {row['token']} ({row['channel']}) is {apart_us / 1e6:.1f} s away from its sample"
            yield warning("time", "sample_data", row["token"], sentence)


def _poses(tables: NuScenes, *, rows: Sequence[Row]) -> Iterator[Finding]:
    tokens = dict.fromkeys(row["ego_pose_token"] for row in rows)
    yield from placed("ego_pose", [tables.get("ego_pose", token) for token in tokens], upright=True)


def placed(name: str, rows: Sequence[Row], *, upright: bool = False) -> Iterator[Finding]:
    """Rows whose ``translation`` is not finite, or whose ``rotation`` is no quaternion of length 1.

    Args:
        name: Of the table.
        rows: Of it.
        upright: Whether what they place stands on the ground, as vehicles and boxes do.
    """
    if not rows:
        return
    places = np.array([row["translation"] for row in rows], dtype=np.float64)
    turns = np.array([row["rotation"] for row in rows], dtype=np.float64)
    for at in np.flatnonzero(~np.isfinite(places).all(axis=1)):
        token = rows[at]["token"]
        yield Finding("finite", name, token, f"translation of {name} {token} is not finite")
    with np.errstate(all="ignore"):
        length = np.linalg.norm(turns, axis=1)
    for at in np.flatnonzero(~(np.abs(length - 1) <= UNIT_TOLERANCE)):
        token = rows[at]["token"]
        yield Finding("quaternion", name, token, f"rotation of {name} {token} has length {length[at]:.4g}, not 1")
    if upright and (np.abs(length - 1) <= UNIT_TOLERANCE).all():
        yield from _tilted(name, rows=rows, turns=turns)


def _tilted(name: str, *, rows: Sequence[Row], turns: Array) -> Iterator[Finding]:
    """What lies on its side or head: quaternions in another order give that."""
    degrees = np.degrees(np.arccos(np.clip(rotation_matrices(turns)[:, 2, 2], -1, 1)))
    for at in np.flatnonzero(degrees > _UPRIGHT_DEGREES):
        token = rows[at]["token"]
        says = f"leans by {degrees[at]:.0f} degrees; quaternions are w, x, y, z"
        yield Finding("quaternion", name, token, f"rotation of {name} {token} {says}")


def _calibrations(tables: NuScenes, *, rows: Sequence[Row], layout: Layout) -> Iterator[Finding]:
    channels = {row["calibrated_sensor_token"]: row for row in rows}
    sensors = [tables.get("calibrated_sensor", token) for token in channels]
    faults = list(placed("calibrated_sensor", sensors))
    yield from faults
    faulty = {finding.token for finding in faults}
    for sensor in sensors:
        image = channels[sensor["token"]]
        if image["channel"] != layout.lidar:
            yield from _intrinsic(sensor, image=image)
            if sensor["token"] not in faulty and image["channel"] in _USUAL:
                yield from _direction(sensor, channel=image["channel"])


def _intrinsic(sensor: Row, *, image: Row) -> Iterator[Finding]:
    token, channel = sensor["token"], image["channel"]
    matrix = np.array(sensor["camera_intrinsic"], dtype=np.float64)
    if matrix.shape != (3, 3) or not np.isfinite(matrix).all():
        yield Finding("intrinsic", "calibrated_sensor", token, f"camera_intrinsic of {token} ({channel}) is not finite")
    elif min(matrix[0, 0], matrix[1, 1]) <= 0 or not np.allclose(matrix[2], [0, 0, 1], atol=1e-6):
        says = "has no positive focal lengths over a last row 0 0 1"
        yield Finding("intrinsic", "calibrated_sensor", token, f"camera_intrinsic of {token} ({channel}) {says}")
    elif min(matrix[0, 0] / max(image["width"], 1), matrix[1, 1] / max(image["height"], 1)) < _SHORTEST_FOCAL:
        lengths = f"{matrix[0, 0]:g} and {matrix[1, 1]:g} px on an image of {image['width']}x{image['height']}"
        says = f"has focal lengths of {lengths}; they are in pixels of this image"
        yield Finding("intrinsic", "calibrated_sensor", token, f"camera_intrinsic of {token} ({channel}) {says}")
    elif not (0 < matrix[0, 2] < image["width"] and 0 < matrix[1, 2] < image["height"]):
        says = f"has its centre outside the image of {image['width']}x{image['height']}"
        yield warning("intrinsic", "calibrated_sensor", token, f"camera_intrinsic of {token} ({channel}) {says}")


def _direction(sensor: Row, *, channel: str) -> Iterator[Finding]:
    """A camera that looks elsewhere than nuScenes' camera of its name: swapped, or a rig of one's own."""
    quaternions = np.array([sensor["rotation"], _USUAL[channel]], dtype=np.float64)
    axes = rotation_matrices(quaternions)[:, :, 2]
    degrees = np.degrees(np.arccos(np.clip(axes[0] @ axes[1], -1, 1)))
    if degrees > _RIG_DEGREES:
        sentence = f"{channel} ({sensor['token']}) looks {degrees:.0f} degrees away from nuScenes' {channel}"
        yield warning("rig", "calibrated_sensor", sensor["token"], sentence)


def _ego_poses(tables: NuScenes, *, chain: Sequence[Row], clock: str) -> list[Row]:
    tokens = [tables.get("sample_data", sample["data"][clock])["ego_pose_token"] for sample in chain]
    return [tables.get("ego_pose", token) for token in tokens]


def places_of(tables: NuScenes, *, chain: Sequence[Row], clock: str = NUSCENES.clock) -> Array:
    """(S, 3) where the vehicle is at some samples that have a frame of the sensor ``clock``, in the global frame."""
    places = [pose["translation"] for pose in _ego_poses(tables, chain=chain, clock=clock)]
    return np.array(places, dtype=np.float64).reshape(-1, 3)


def _jumps(tables: NuScenes, *, chains: Sequence[Sequence[Row]], clock: str) -> Iterator[Finding]:
    for chain in chains:
        poses = _ego_poses(tables, chain=chain, clock=clock)
        places = places_of(tables, chain=chain, clock=clock)
        if not np.isfinite(places).all():
            continue
        steps = np.diff(places, axis=0)
        for step, start, sample in zip(steps, chain, chain[1:], strict=False):
            seconds = (sample["timestamp"] - start["timestamp"]) * 1e-6
            speed = float(np.linalg.norm(step)) / seconds if seconds > 0 else 0.0
            if speed > _FASTEST_MPS:
                token = sample["token"]
                yield warning("pose", "ego_pose", token, f"the vehicle makes {speed:.0f} m/s before sample {token}")
        yield from _backwards(chain, steps=steps, poses=poses)


def _backwards(chain: Sequence[Row], *, steps: Array, poses: Sequence[Row]) -> Iterator[Finding]:
    """A vehicle that drives where its back looks, over a distance: its heading is in another order or frame."""
    way = float(np.linalg.norm(steps, axis=1).sum())
    turns = np.array([pose["rotation"] for pose in poses], dtype=np.float64)
    if way < _LONG_WAY_M or not (np.abs(np.linalg.norm(turns, axis=1) - 1) <= UNIT_TOLERANCE).all():
        return
    ahead = float((steps * rotation_matrices(turns)[:-1, :, 0]).sum())
    if ahead < way / 2:
        says = f"drives {way:.0f} m and {ahead:.0f} m of them ahead, from sample {chain[0]['token']}"
        yield warning("pose", "ego_pose", chain[0]["token"], f"the vehicle {says}: does ego_pose point where it looks?")
