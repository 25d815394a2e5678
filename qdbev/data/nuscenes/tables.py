"""Table files of a nuScenes tree (schema v1.0): presence, digest, scene names and the devkit's own splits.

Source: nuScenes schema, https://www.nuscenes.org/nuscenes#data-format, and nuscenes-devkit ``utils/splits.py``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

from nuscenes import NuScenes
from nuscenes.utils.splits import create_splits_scenes

TABLES = (
    "attribute", "calibrated_sensor", "category", "ego_pose", "instance", "log", "map",
    "sample", "sample_annotation", "sample_data", "scene", "sensor", "visibility",
)  # fmt: skip
SPLITS = "splits.json"
_TRUCKSCENES = "ego_motion_cabin.json"  # nuScenes has no such table
OF_NUSCENES_ALONE = ("log", "map")
"""Tables that no number depends on; data sets that lack them are read without."""
Rows = dict[str, list[dict[str, Any]]]
_OF_ALL = tuple(name for name in TABLES if name not in OF_NUSCENES_ALONE)
_BLOCK_BYTES = 1 << 22
_LONGEST_REASON = 200


def check_tables(root: Path, *, version: str, tables: Sequence[str] = TABLES) -> Path:
    """Return the folder of the tables of ``version``.

    Raises:
        ValueError: no such version below ``root``, or a table file is not there.
    """
    folder = root / version
    if not folder.is_dir():
        found = sorted(path.parent.name for path in root.glob("*/scene.json"))
        have = f"found {', '.join(found)}" if found else "found no version folder there"
        raise ValueError(f"no nuScenes version {version!r} in {root} ({have}); give the root that holds {version}/.")
    missing = [name for name in tables if not (folder / f"{name}.json").is_file()]
    if missing:
        advice = "unpack the nuScenes metadata again, or generate the synthetic data set again."
        if (folder / _TRUCKSCENES).is_file():
            advice = "these are the tables of TruckScenes: set data.rig=truckscenes."
        raise ValueError(f"{folder} lacks the table {', '.join(f'{name}.json' for name in missing)}; {advice}")
    return folder


def tables_digest(root: Path, *, version: str, tables: Sequence[str] = TABLES) -> str:
    """sha256 (hex) over the bytes of all tables, in their order; kept in this process."""
    folder = check_tables(root, version=version, tables=tables)
    paths = [folder / f"{name}.json" for name in tables]
    states = [(path, path.stat()) for path in paths]
    return _digest(tuple((path, state.st_size, state.st_ino, state.st_mtime_ns) for path, state in states))


@lru_cache(maxsize=4)
def _digest(states: tuple[tuple[Path, int, int, int], ...]) -> str:
    total = hashlib.sha256()
    for path, *_ in states:
        total.update(f"{path.stem}:{file_digest(path)};".encode())
    return total.hexdigest()


def file_digest(path: Path) -> str:
    """sha256 (hex) of the bytes of one file."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def read_tables(root: Path, *, version: str, tables: Sequence[str] = TABLES) -> Rows:
    """The rows of the tables as they are in the files, by table; the others of nuScenes' thirteen are empty.

    Raises:
        ValueError: A table is missing, or is no JSON.
    """
    folder = check_tables(root, version=version, tables=tables)
    return {name: _parsed(folder / f"{name}.json") if name in tables else [] for name in TABLES}


def _parsed(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        reason = str(error)[:_LONGEST_REASON]
        raise ValueError(f"{path} is damaged ({reason}); unpack or generate the data set again.") from error


class _Opened(NuScenes):
    """The devkit's tables over rows that were read before."""

    def __init__(self, rows: Rows, *, root: Path, version: str) -> None:
        self._rows = rows
        super().__init__(version=version, dataroot=str(root), verbose=False)

    def __load_table__(self, table_name: str) -> Any:
        if (
            table_name == "map" and not self._rows["map"]
        ):  # the devkit asks for a row and its file, which it never reads
            return [{"token": "", "filename": f"{self.version}/scene.json", "log_tokens": []}]
        return self._rows[table_name] if table_name in self._rows else super().__load_table__(table_name)


def open_tables(root: Path, *, version: str, rows: Rows | None = None) -> NuScenes:
    """The tables as the devkit joins them.

    Args:
        root: Folder of the data set.
        version: Name of the table folder.
        rows: By ``read_tables``, which the devkit adds to; read here where None.

    Raises:
        ValueError: a table is missing or damaged, or a map file the devkit asks for is not there.
    """
    rows = read_tables(root, version=version) if rows is None else rows
    try:
        return _Opened(rows, root=root, version=version)
    except Exception as error:  # the devkit asserts, or fails at the first row that is not as it expects
        raise ValueError(
            f"the nuScenes tables in {root / version} do not load ({type(error).__name__}: {error}); "
            "the data set is incomplete or damaged: unpack or generate it again."
        ) from error


def available_scenes(root: Path, *, version: str) -> list[str]:
    """Names of the scenes in the table ``scene.json``, in table order."""
    return [name for name, _ in _scene_rows(root, version=version)]


def sample_counts(root: Path, *, version: str) -> dict[str, int]:
    """Number of key frames by scene name, as the table ``scene.json`` states them; raises as ``available_scenes``."""
    return dict(_scene_rows(root, version=version))


def _scene_rows(root: Path, *, version: str) -> list[tuple[str, int]]:
    path = check_tables(Path(root), version=version, tables=_OF_ALL) / "scene.json"
    try:
        rows = [(record["name"], int(record["nbr_samples"])) for record in _parsed(path)]
    except (KeyError, TypeError, OverflowError) as error:
        raise ValueError(f"{path} is damaged ({error}); unpack or generate the data set again.") from error
    if not all(isinstance(name, str) for name, _ in rows):
        raise ValueError(f"{path} is damaged (a name is no text); unpack or generate the data set again.")
    return rows


def choose_scenes(available: Sequence[str], *, wanted: Sequence[str] | None) -> list[str]:
    """The wanted scene names in the wanted order, or all; ValueError names those that are not available."""
    if wanted is None:
        return list(available)
    missing = sorted(set(wanted) - set(available))
    if missing:
        shown = ", ".join(missing[:5]) + (" ..." if len(missing) > 5 else "")
        raise ValueError(
            f"the tables lack {len(missing)} of {len(wanted)} scenes asked for: {shown}; generate or unpack them."
        )
    return list(dict.fromkeys(wanted))


def split_scenes(version: str, *, root: Path | None = None) -> dict[str, list[str]]:
    """Scene names of each split: of ``splits.json`` beside the tables, as the devkit reads it, or the devkit's own.

    Args:
        version: ``...-trainval`` (``train`` 700, ``val`` 150 scenes), ``...-mini`` (``train`` 8, ``val`` 2) or
            ``...-test`` (``test`` 150, without ground truth); any other where there is a ``splits.json``. TruckScenes'
            are of its own devkit.
        root: Folder of the data set; None asks for the devkit's own.

    Raises:
        ValueError: a version without public splits, or a ``splits.json`` that is not one.
    """
    if root is not None and (path := root / version / SPLITS).is_file():
        return _stated_splits(path)
    names = {"trainval": ("train", "val"), "mini": ("train", "val"), "test": ("test",)}.get(version.split("-")[-1])
    if names is None:
        raise ValueError(
            f"version {version!r} has no known splits; use v1.0-trainval, v1.0-mini or v1.0-test, or write "
            f"{version}/{SPLITS} with the names of train and val scenes."
        )
    prefix, splits = "mini_" if version.endswith("mini") else "", _devkit_splits(root, version=version)
    return {name: list(splits[prefix + name]) for name in names}


def _devkit_splits(root: Path | None, *, version: str) -> dict[str, list[str]]:
    """nuScenes' splits, or those of TruckScenes, where the tables are its."""
    if root is None or not (root / version / _TRUCKSCENES).is_file():
        return dict(create_splits_scenes())
    try:
        splits: dict[str, list[str]] = import_module("truckscenes.utils.splits").create_splits_scenes()
    except ImportError as error:
        raise ValueError(
            f"{root / version} has the tables of TruckScenes, and its devkit knows their splits ({error}): "
            f"`pip install truckscenes-devkit`, or write {version}/{SPLITS} with the names of train and val scenes"
        ) from error
    return splits


def _stated_splits(path: Path) -> dict[str, list[str]]:
    splits = _parsed(path)
    lists = list(splits.values()) if isinstance(splits, dict) else [None]
    if not all(isinstance(names, list) and all(isinstance(name, str) for name in names) for names in lists):
        raise ValueError(f'{path} is not as the devkit reads it: {{"train": [scene names], "val": [scene names]}}')
    if both := sorted(set(splits.get("train", ())) & set(splits.get("val", ()))):
        raise ValueError(
            f"{path} has {len(both)} scenes in train and in val, first {both[0]!r}: a detector would be scored on what "
            "it was trained on"
        )
    return {name: list(dict.fromkeys(names)) for name, names in splits.items()}
