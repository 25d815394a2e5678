"""Table files of a nuScenes tree (schema v1.0): presence, digest, scene names and the devkit's own splits.

Source: nuScenes schema, https://www.nuscenes.org/nuscenes#data-format, and nuscenes-devkit ``utils/splits.py``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from nuscenes import NuScenes
from nuscenes.utils.splits import create_splits_scenes

TABLES = (
    "attribute", "calibrated_sensor", "category", "ego_pose", "instance", "log", "map",
    "sample", "sample_annotation", "sample_data", "scene", "sensor", "visibility",
)  # fmt: skip
_BLOCK_BYTES = 1 << 22


def check_tables(root: Path, *, version: str) -> Path:
    """Return the folder of the thirteen tables of ``version``.

    Raises:
        ValueError: no such version below ``root``, or a table file is not there.
    """
    folder = root / version
    if not folder.is_dir():
        found = sorted(path.parent.name for path in root.glob("*/scene.json"))
        have = f"found {', '.join(found)}" if found else "found no version folder there"
        raise ValueError(f"no nuScenes version {version!r} in {root} ({have}); give the root that holds {version}/.")
    missing = [name for name in TABLES if not (folder / f"{name}.json").is_file()]
    if missing:
        raise ValueError(
            f"{folder} lacks the table(s) {', '.join(f'{name}.json' for name in missing)}; "
            "unpack the nuScenes metadata again, or generate the synthetic data set again."
        )
    return folder


def tables_digest(root: Path, *, version: str) -> str:
    """sha256 (hex) over the bytes of all thirteen tables, in the order of ``TABLES``."""
    folder = check_tables(root, version=version)
    total = hashlib.sha256()
    for name in TABLES:
        total.update(f"{name}:{file_digest(folder / f'{name}.json')};".encode())
    return total.hexdigest()


def file_digest(path: Path) -> str:
    """sha256 (hex) of the bytes of one file."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def open_tables(root: Path, *, version: str) -> NuScenes:
    """Load the tables with the devkit.

    Raises:
        ValueError: a table is missing or damaged, or a map file the devkit asks for is not there.
    """
    check_tables(root, version=version)
    try:
        return NuScenes(version=version, dataroot=str(root), verbose=False)
    except (AssertionError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(
            f"the nuScenes tables in {root / version} do not load ({type(error).__name__}: {error}); "
            "the data set is incomplete or damaged: unpack or generate it again."
        ) from error


def available_scenes(root: Path, *, version: str) -> list[str]:
    """Names of the scenes in the table ``scene.json``, in table order."""
    path = check_tables(Path(root), version=version) / "scene.json"
    try:
        return [record["name"] for record in json.loads(path.read_text())]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}); unpack or generate the data set again.") from error


def sample_counts(root: Path, *, version: str) -> dict[str, int]:
    """Number of key frames by scene name, as the table ``scene.json`` states them; raises as ``available_scenes``."""
    path = check_tables(Path(root), version=version) / "scene.json"
    try:
        return {record["name"]: int(record["nbr_samples"]) for record in json.loads(path.read_text())}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}); unpack or generate the data set again.") from error


def choose_scenes(available: Sequence[str], *, wanted: Sequence[str] | None) -> list[str]:
    """The wanted scene names in the wanted order, or all; ValueError names those that are not available."""
    if wanted is None:
        return list(available)
    missing = sorted(set(wanted) - set(available))
    if missing:
        shown = ", ".join(missing[:5]) + (" ..." if len(missing) > 5 else "")
        raise ValueError(f"{len(missing)} scene(s) asked for are not in the tables: {shown}; generate or unpack them.")
    return list(dict.fromkeys(wanted))


def split_scenes(version: str) -> dict[str, list[str]]:
    """The devkit's own scene names of each split of a version.

    Args:
        version: ``...-trainval`` (``train`` 700, ``val`` 150 scenes), ``...-mini`` (``train`` 8, ``val`` 2) or
            ``...-test`` (``test`` 150, without ground truth).

    Raises:
        ValueError: a version without public splits.
    """
    names = {"trainval": ("train", "val"), "mini": ("train", "val"), "test": ("test",)}.get(version.split("-")[-1])
    if names is None:
        raise ValueError(f"version {version!r} has no known splits; use v1.0-trainval, v1.0-mini or v1.0-test.")
    prefix, splits = "mini_" if version.endswith("mini") else "", create_splits_scenes()
    return {name: list(splits[prefix + name]) for name in names}
