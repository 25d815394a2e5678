"""Parsed key frames on disk and their digest: flat arrays in one ``.npz``, no pickle.

A cache file is keyed by the digest of the tables, of the CAN messages and of the scene list, so it can be wrong only
if this code changes: then ``FORMAT`` is raised.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qdbev.data.nuscenes.layout import NUSCENES, Layout
from qdbev.data.nuscenes.tables import file_digest, tables_digest

FORMAT = 2
_FRAME_FIELDS = ("token", "scene", "scene_token", "index_in_scene", "timestamp", "ego2global", "lidar2ego",
                 "can_bus", "lidar_path")  # fmt: skip
_IMAGE_FIELDS = ("img_path", "width", "height", "timestamp", "cam2img", "lidar2cam")
_BOX_FIELDS = ("bbox_3d", "velocity", "bbox_label_3d", "num_lidar_pts", "num_radar_pts", "bbox_3d_isvalid", "attribute")
_BOX_SHAPES = {"bbox_3d": (7,), "velocity": (2,)}


def cache_key(root: Path, *, version: str, scenes: Sequence[str], layout: Layout = NUSCENES) -> str:
    """Hex key of a cache file: format, digest of the tables, layout, scenes, digest of the scenes' CAN pose files."""
    key = hashlib.sha256(f"{FORMAT}:{tables_digest(root, version=version, tables=layout.tables)}".encode())
    if layout != NUSCENES:
        key.update(f";{layout}".encode())
    for scene in scenes:
        path = root / "can_bus" / f"{scene}_pose.json"
        key.update(f";{scene}:{file_digest(path) if path.is_file() else '-'}".encode())
    return key.hexdigest()[:32]


def save_samples(samples: Sequence[dict[str, Any]], *, path: Path) -> None:
    """Write the samples beside ``path``, flush, and rename: a cache file is whole or is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            np.savez(stream, **_columns(samples))  # type: ignore[arg-type]
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def load_samples(path: Path) -> list[dict[str, Any]] | None:
    """Samples of a cache file, or None where there is none or it cannot be read (then it is made again)."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return _rows({name: archive[name] for name in archive.files})
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None


def scene_digest(samples: Sequence[dict[str, Any]]) -> str:
    """sha256 (hex) over what the samples say: tokens, poses, calibration, boxes, and sizes of the image files.

    Where the files were looked into (``qdbev.data.nuscenes.contents``), their contents enter. Two roots with the same
    scenes have the same digest, whatever other scenes they hold and in whatever order the samples come. Numbers enter
    rounded to 1e-6 (metres, radians, pixels).
    """
    rows = sorted(hashlib.sha256(_sample_bytes(sample)).hexdigest() for sample in samples)
    return hashlib.sha256("".join(rows).encode()).hexdigest()


def _sample_bytes(sample: dict[str, Any]) -> bytes:
    images, boxes = sample["images"], sample["instances"]
    words = [sample["token"], sample["scene"], str(sample["index_in_scene"]), str(sample["timestamp"])]
    words += [f"{camera}:{image['img_path']}:{image['size_bytes']}" for camera, image in images.items()]
    words += [image["content"] for image in images.values() if "content" in image]
    words += [sample["lidar_content"]] if "lidar_content" in sample else []
    words += [*boxes["attribute"], *map(str, boxes["bbox_label_3d"]), *map(str, boxes["bbox_3d_isvalid"])]
    arrays = [sample["ego2global"], sample["lidar2ego"], sample["can_bus"], boxes["bbox_3d"], boxes["velocity"]]
    arrays += [image[name] for image in images.values() for name in ("cam2img", "lidar2cam")]
    numbers = [(np.round(np.nan_to_num(array, nan=1e9), 6) + 0.0).astype("<f8").tobytes() for array in arrays]
    return "|".join(words).encode() + b"".join(numbers)


def _columns(samples: Sequence[dict[str, Any]]) -> dict[str, np.ndarray]:
    columns = {name: np.array([sample[name] for sample in samples]) for name in _FRAME_FIELDS}
    columns["cameras"] = np.array(list(samples[0]["images"]) if samples else [], dtype=np.str_)
    for name in _IMAGE_FIELDS:
        columns[f"image_{name}"] = np.array(
            [[image[name] for image in sample["images"].values()] for sample in samples]
        )
    counts = [len(sample["instances"]["bbox_3d"]) for sample in samples]
    columns["box_offset"] = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int64)
    for name in _BOX_FIELDS:
        rows = [value for sample in samples for value in sample["instances"][name]]
        columns[f"box_{name}"] = np.array(rows).reshape(len(rows), *_BOX_SHAPES.get(name, ()))
    return columns


def _rows(columns: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    return [_row(columns, index=index) for index in range(len(columns["token"]))]


def _row(columns: dict[str, np.ndarray], *, index: int) -> dict[str, Any]:
    sample: dict[str, Any] = {name: _plain(columns[name][index]) for name in _FRAME_FIELDS}
    sample["images"] = {
        str(camera): {name: _plain(columns[f"image_{name}"][index, number]) for name in _IMAGE_FIELDS}
        for number, camera in enumerate(columns["cameras"])
    }
    rows = slice(columns["box_offset"][index], columns["box_offset"][index + 1])
    sample["instances"] = {name: columns[f"box_{name}"][rows] for name in _BOX_FIELDS}
    types = {
        "bbox_label_3d": np.int64,
        "num_lidar_pts": np.int64,
        "num_radar_pts": np.int64,
        "bbox_3d_isvalid": np.bool_,
    }
    for name, kind in types.items():
        sample["instances"][name] = sample["instances"][name].astype(kind)
    sample["instances"]["attribute"] = [str(name) for name in sample["instances"]["attribute"]]
    return sample


def _plain(value: Any) -> Any:
    """numpy scalars become str and int; arrays stay."""
    return value if isinstance(value, np.ndarray) else value.item()
