"""The rows and fields of nuScenes tables that scoring needs, for some scenes.

``NuScenes()`` keeps every row of thirteen tables and draws their maps. Here a table is parsed once, and a row that is
not asked for is dropped while it is parsed. Joins are those of nuscenes-devkit, ``nuscenes.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from qdbev.evaluation.boxes import Floats, Ints
from qdbev.evaluation.json_parts import from_rows

Row = dict[str, Any]


@dataclass(frozen=True)
class Samples:
    """Key frames by token, in the order of time in each scene."""

    scene_of: dict[str, str]
    """Scene name of each sample of the chosen scenes."""
    seconds: dict[str, float]
    """Time of every sample of the table."""


@dataclass(frozen=True, eq=False)
class Annotations:
    """A annotated boxes of some samples, in table order within each sample."""

    sample: Ints
    """(A,) number of the sample."""
    category: list[str]
    attributes: list[list[str]]
    """Names of the attributes of each."""
    points: Ints
    """(A,) LiDAR and radar points inside."""
    translation: Floats
    size: Floats
    rotation: Floats
    velocity: Floats
    """(A, 2) m/s by the devkit's rule; NaN where it gives none."""


def read_scenes(folder: Path) -> dict[str, str]:
    """Token of the first sample of each scene, by the scene's name."""
    return dict(_rows(folder, "scene", take=itemgetter("name", "first_sample_token")))


def read_samples(folder: Path, *, first: Mapping[str, str]) -> Samples:
    """The samples of some scenes, each in the order of time.

    Args:
        folder: Of the tables.
        first: Token of the first sample by the name of the scene.
    """
    rows = _rows(folder, "sample", take=itemgetter("token", "next", "timestamp"))
    following = {token: after for token, after, _ in rows}
    scene_of: dict[str, str] = {}
    for name, token in first.items():
        while token and token not in scene_of:
            scene_of[token] = name
            token = following[token]
    return Samples(scene_of, {token: 1e-6 * timestamp for token, _, timestamp in rows})


def read_ego_positions(folder: Path, *, tokens: Sequence[str], clock: str = "LIDAR_TOP") -> Floats:
    """Place of the ego vehicle (S, 2) in the plane at the time of a sensor of each sample: nuScenes' is its LiDAR."""
    sensors = {token for token, channel in _rows(folder, "sensor", take=itemgetter("token", "channel"))
               if channel == clock}  # fmt: skip
    rows = _rows(folder, "calibrated_sensor", take=itemgetter("token", "sensor_token"))
    clocks, wanted = {token for token, sensor in rows if sensor in sensors}, set(tokens)

    def is_meant(row: Row) -> bool:
        return row["is_key_frame"] and row["calibrated_sensor_token"] in clocks and row["sample_token"] in wanted

    take = itemgetter("sample_token", "ego_pose_token")
    pose_of = dict(_rows(folder, "sample_data", take=take, where=is_meant))
    poses = set(pose_of.values())
    take = itemgetter("token", "translation")
    places = dict(_rows(folder, "ego_pose", take=take, where=lambda row: row["token"] in poses))
    return np.array([places[pose_of[token]] for token in tokens], dtype=np.float64).reshape(-1, 3)[:, :2]


def read_annotations(folder: Path, *, samples: Samples) -> Annotations:
    """All annotations of the chosen samples."""
    number = {token: place for place, token in enumerate(samples.scene_of)}
    take = itemgetter("sample_token", "token", "instance_token", "attribute_tokens", "num_lidar_pts", "num_radar_pts",
                      "translation", "size", "rotation", "prev", "next")  # fmt: skip
    rows = _rows(folder, "sample_annotation", take=take, where=lambda row: row["sample_token"] in number)
    rows.sort(key=lambda row: number[row[0]])
    names = dict(_rows(folder, "category", take=itemgetter("token", "name")))
    category_of = dict(_rows(folder, "instance", take=itemgetter("token", "category_token")))
    attribute = dict(_rows(folder, "attribute", take=itemgetter("token", "name")))
    columns = list(zip(*rows, strict=True)) or [()] * 11
    own, token, instance, attributes, lidar, radar, translation, size, rotation, before, after = columns
    return Annotations(
        sample=np.array([number[name] for name in own], dtype=np.int64),
        category=[names[category_of[name]] for name in instance],
        attributes=[[attribute[name] for name in listed] for listed in attributes],
        points=np.array(lidar, dtype=np.int64) + np.array(radar, dtype=np.int64),
        translation=_columns(translation, width=3),
        size=_columns(size, width=3),
        rotation=_columns(rotation, width=4),
        velocity=_velocities(
            _Track(token, own, translation), before=before, after=after, seconds=samples.seconds, folder=folder
        ),
    )


@dataclass(frozen=True)
class _Track:
    """Token, sample and centre of each annotation."""

    token: Sequence[str]
    sample: Sequence[str]
    centre: Sequence[Sequence[float]]


def _velocities(
    track: _Track, *, before: Sequence[str], after: Sequence[str], seconds: Mapping[str, float], folder: Path
) -> Floats:
    """``NuScenes.box_velocity`` of all annotations: centred differences, one-sided ones at the ends of a track."""
    known = dict(zip(track.token, zip(track.sample, track.centre, strict=True), strict=True))
    if strange := {token for token in (*before, *after) if token} - known.keys():
        known |= _strangers(folder, tokens=strange)
    first, last = (
        [known[other or own] for other, own in zip(others, track.token, strict=True)] for others in (before, after)
    )
    apart = _columns([centre for _, centre in last], width=3) - _columns([centre for _, centre in first], width=3)
    times = [np.array([seconds[token] for token, _ in ends], dtype=np.float64) for ends in (first, last)]
    duration = times[1] - times[0]
    ends = (
        np.array([bool(token) for token in before], dtype=bool),
        np.array([bool(token) for token in after], dtype=bool),
    )
    longest = np.where(ends[0] & ends[1], 3.0, 1.5)  # seconds
    with np.errstate(all="ignore"):
        velocity = apart[:, :2] / duration[:, None]
    velocity[~(ends[0] | ends[1]) | (duration > longest)] = np.nan
    return velocity


def _strangers(folder: Path, *, tokens: Collection[str]) -> dict[str, tuple[str, Sequence[float]]]:
    """Sample and centre of annotations of other samples."""
    take = itemgetter("token", "sample_token", "translation")
    rows = _rows(folder, "sample_annotation", take=take, where=lambda row: row["token"] in tokens)
    return {token: (sample, centre) for token, sample, centre in rows}


def _columns(rows: Sequence[Sequence[float]], *, width: int) -> Floats:
    flat = np.fromiter(chain.from_iterable(rows), dtype=np.float64)
    return flat.reshape(len(rows), width)


def _rows(
    folder: Path, name: str, *, take: Callable[[Row], Any], where: Callable[[Row], bool] | None = None
) -> list[Any]:
    """What ``take`` makes of the rows of a table, of those that ``where`` holds for."""
    parts = from_rows(folder / f"{name}.json", make=lambda rows: list(map(take, filter(where, rows))))
    return [row for part in parts for row in part]
