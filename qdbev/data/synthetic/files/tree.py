"""The tree on disk: what lies where, the marker that seals it, and the check that it is whole."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qdbev.data.synthetic.files.tables import TABLES
from qdbev.data.synthetic.sensors.cameras import CHANNELS

MARKER = "synthetic.json"
SETTINGS = "settings.json"
DATA_FOLDERS = (
    "can_bus",
    "samples/LIDAR_TOP",
    *(f"{kind}/{channel}" for kind in ("samples", "sweeps") for channel in CHANNELS),
)


@dataclass(frozen=True)
class SyntheticSummary:
    """What a tree holds.

    Attributes:
        train_scenes: Scenes of the train split.
        val_scenes: Scenes of the val split.
        samples: Key frames.
        annotations: Boxes.
        instances: Things that have boxes.
        files: Data files.
        size_bytes: Their size.
        digest: SHA-256 over the fragments of all scenes.
    """

    train_scenes: int
    val_scenes: int
    samples: int
    annotations: int
    instances: int
    files: int
    size_bytes: int
    digest: str


def write_atomically(path: Path, text: str) -> None:
    """Write a whole file or none."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.write_text(text)
    os.replace(scratch, path)


def fragment_path(root: Path, name: str) -> Path:
    """Where the fragment of a scene lies."""
    return root / "scenes" / f"{name}.json"


def read_fragment(root: Path, name: str) -> dict[str, Any]:
    """A scene's settings, files and rows; ValueError where it is missing or no JSON."""
    path = fragment_path(root, name)
    if not path.exists():
        raise ValueError(f"{root}: the fragment scenes/{name}.json is missing; {_remedy()}")
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}); delete it; {_remedy()}") from error
    return content


def digest_of(root: Path, names: Iterable[str]) -> str:
    """SHA-256 over the fragments of some scenes, in order."""
    total = hashlib.sha256()
    for name in names:
        total.update(hashlib.sha256(fragment_path(root, name).read_bytes()).digest())
    return total.hexdigest()


def read_marker(root: Path) -> dict[str, Any]:
    """The marker of a complete tree; ValueError where there is none."""
    path = root / MARKER
    if not path.exists():
        begun = (root / SETTINGS).exists()
        state = "is half-written" if begun else "is no synthetic data set"
        raise ValueError(f"{root} {state}: {MARKER} is missing; {_remedy()}")
    try:
        marker: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}); delete it; {_remedy()}") from error
    return marker


def verify(root: Path) -> SyntheticSummary:
    """Check that a tree is whole: marker, fragments, tables and sizes of all data files agree.

    Raises:
        ValueError: It is not; the message names the damage and what to do.
    """
    root = Path(root)
    marker = read_marker(root)
    names = [*marker["train"], *marker["val"]]
    fragments = [read_fragment(root, name) for name in names]
    if digest_of(root, names) != marker["digest"]:
        raise ValueError(f"{root}: the fragments in scenes/ differ from those that {MARKER} sealed; {_remedy()}")
    _check_files(root, fragments)
    _check_tables(root, marker)
    return SyntheticSummary(**marker["counts"])


def _remedy() -> str:
    return "generate with the same settings again, into an empty folder if that does not help"


def _check_files(root: Path, fragments: list[dict[str, Any]]) -> None:
    sizes = {
        f"{folder}/{entry.name}": entry.stat().st_size
        for folder in DATA_FOLDERS
        if (root / folder).is_dir()
        for entry in os.scandir(root / folder)
    }
    for fragment in fragments:
        for file, size in fragment["files"].items():
            if sizes.get(file) != size:
                found = f"has {sizes[file]} bytes" if file in sizes else "is missing"
                raise ValueError(
                    f"{root}: {file} {found}, expected {size} bytes; delete scenes/{fragment['scene']}.json "
                    f"and {MARKER}, then {_remedy()}"
                )


def _check_tables(root: Path, marker: dict[str, Any]) -> None:
    for table in TABLES:
        path = root / marker["version"] / f"{table}.json"
        if not path.exists():
            raise ValueError(f"{root}: the table {path.name} is missing; delete {MARKER}, then {_remedy()}")
        if hashlib.sha256(path.read_bytes()).hexdigest() != marker["tables"][table]:
            raise ValueError(f"{root}: the table {path.name} is not as written; delete {MARKER}, then {_remedy()}")
