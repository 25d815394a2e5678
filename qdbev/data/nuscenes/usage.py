"""What of a data set is used, what is ignored, and which number that moves: by table, by sensor, with a code each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qdbev.data.nuscenes.layout import Layout
from qdbev.data.nuscenes.motion import without_messages
from qdbev.data.nuscenes.records import Sample

NO_NUMBER = "none"
_SCORES, _ALL = "mAP, NDS", "all"
_TABLES = {
    "attribute": ("what a box does", "mAAE, NDS"),
    "calibrated_sensor": ("where sensors stand, and their lenses", _ALL),
    "category": ("which boxes are of which class", _SCORES),
    "ego_pose": ("where the vehicle is", _ALL),
    "instance": ("the category of each object", _SCORES),
    "sample": ("key frames and their times", _ALL),
    "sample_annotation": ("the boxes", _SCORES),
    "sample_data": ("files, sizes and times", _ALL),
    "scene": ("which key frames follow each other", _ALL),
    "sensor": ("names of sensors", _ALL),
}
_UNREAD = {
    "log": "nuscenes-devkit opens it",
    "map": "nuscenes-devkit opens it, with its files",
    "visibility": "boxes count by their points, as in the devkit",
    "ego_motion_cabin": "motion is from ego poses",
    "ego_motion_chassis": "motion is from ego poses",
    "weather_annotation": "scores by weather are not made",
}
_POINT_BYTES = 20


@dataclass(frozen=True)
class Use:
    """One table or sensor, and what becomes of it."""

    code: str
    """``table`` or ``sensor``, then ``used``, ``ignored`` or ``missing``: ``table-used``, ``sensor-missing`` ..."""
    name: str
    """Of the table or the channel; ``can_bus`` for its messages."""
    sentence: str
    """What is read of it, or why it is not."""
    number: str
    """Which number it moves; ``none`` where it moves none."""


def uses(folder: Path, *, layout: Layout, sensors: Sequence[Mapping[str, Any]], samples: Sequence[Sample]) -> list[Use]:
    """Uses of all tables and sensors of a sound data set.

    Args:
        folder: Of the tables, inside that of the data set.
        layout: What is read.
        sensors: Rows of the table ``sensor``.
        samples: Records of all splits.
    """
    root = folder.parent
    return [*_tables(folder), *_messages(root, samples=samples), *_sensors(root, layout, sensors, samples)]


def _tables(folder: Path) -> Iterator[Use]:
    names = sorted(path.stem for path in folder.glob("*.json") if path.stem != "splits")
    for name in names:
        if name in _TABLES:
            sentence, number = _TABLES[name]
            yield Use("table-used", name, sentence, number)
        else:
            yield Use("table-ignored", name, _UNREAD.get(name, "no command reads it"), NO_NUMBER)


def _messages(root: Path, *, samples: Sequence[Sample]) -> Iterator[Use]:
    scenes = list(dict.fromkeys(sample["scene"] for sample in samples))
    lacking = sum(without_messages(root, scene=scene) for scene in scenes)
    number = "NDS of BEVFormer, whose authors' weights know CAN messages"
    if lacking:
        sentence = f"{lacking} of {len(scenes)} scenes have none: their motion is from ego poses"
        yield Use("table-missing", "can_bus", sentence, number)
    else:
        yield Use("table-used", "can_bus", "the motion of the vehicle", number)


def _sensors(
    root: Path, layout: Layout, sensors: Sequence[Mapping[str, Any]], samples: Sequence[Sample]
) -> Iterator[Use]:
    for name in layout.cameras:
        sizes = dict.fromkeys(f"{s['images'][name]['width']}x{s['images'][name]['height']}" for s in samples)
        yield Use("sensor-used", name, f"images of {', '.join(sizes)}", _ALL)
    yield from _lidar(root, layout=layout, samples=samples)
    for row in sensors:
        channel, modality = str(row["channel"]), str(row["modality"])
        if channel not in layout.sensors:
            why = "data.rig does not name it" if modality != "radar" else "no detector here reads radar"
            yield Use("sensor-ignored", channel, f"{why} ({modality})", NO_NUMBER)


def _lidar(root: Path, *, layout: Layout, samples: Sequence[Sample]) -> Iterator[Use]:
    """The pose of the LiDAR counts for all; its files for depths that BEVDepth learns, and detectors of LiDAR."""
    if layout.lidar is None:
        return
    name, number = layout.lidar, "depth loss of BEVDepth"
    if layout.frame != "lidar":
        yield Use("sensor-used", name, "its time alone; its files are not read", _ALL)
        return
    yield Use("sensor-used", name, "its pose is the frame of all boxes", _ALL)
    missing = sum(_size_bytes(root / sample["lidar_path"]) < _POINT_BYTES for sample in samples)
    if missing:
        sentence = (
            f"{missing} of {len(samples)} files are missing or empty: BEVDepth trains with model.depth.weight=0, "
            "detectors of cameras do not change"
        )
        yield Use("sensor-missing", name, sentence, number)


def _size_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
