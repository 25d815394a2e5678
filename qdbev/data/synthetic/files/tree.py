"""The tree on disk: what lies where, the marker that seals it, and the check that it is whole."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MARKER = "synthetic.json"
SETTINGS = "settings.json"
FILES = "files.json"
_OF_MARKER = {"version": str, "train": list, "val": list, "digest": str, "tables": dict, "counts": dict}
_OF_FRAGMENT = {"scene": str, "files": dict, "tables": dict}


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
    """A scene's settings, files and rows; ValueError where it is missing or holds something else."""
    return _read_object(_fragment_there(root, name), holding=_OF_FRAGMENT)


def digest_of(root: Path, names: Iterable[str]) -> str:
    """SHA-256 over the fragments of some scenes, in order; ValueError where one is missing."""
    total = hashlib.sha256()
    for name in names:
        total.update(hashlib.sha256(_fragment_there(root, name).read_bytes()).digest())
    return total.hexdigest()


def _fragment_there(root: Path, name: str) -> Path:
    path = fragment_path(root, name)
    if not path.exists():
        raise ValueError(f"{root}: the fragment scenes/{name}.json is missing; {_remedy()}")
    return path


def read_marker(root: Path) -> dict[str, Any]:
    """The marker of a complete tree; ValueError where there is none."""
    path = root / MARKER
    if not path.exists():
        begun = (root / SETTINGS).exists()
        state = "is half-written" if begun else "is no synthetic data set"
        raise ValueError(f"{root} {state}: {MARKER} is missing; {_remedy()}")
    return _read_object(path, holding=_OF_MARKER)


def read_settings(root: Path) -> dict[str, Any]:
    """The settings of a tree that is there; ValueError where they cannot be read."""
    return _read_object(root / SETTINGS, holding={})


def _read_object(path: Path, *, holding: Mapping[str, type]) -> dict[str, Any]:
    """A JSON object with fields of these types; ValueError where it is something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON ({error}); delete it; {_remedy()}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not an object; delete it; {_remedy()}")
    if wrong := [name for name, kind in holding.items() if not isinstance(content.get(name), kind)]:
        raise ValueError(f"{path} has no {' and no '.join(wrong)} of the right type; delete it; {_remedy()}")
    return content


def verify(root: Path) -> SyntheticSummary:
    """Check that a tree is whole: marker, fragments, tables and sizes of all data files agree.

    Raises:
        ValueError: It is not; the message names the damage and what to do.
    """
    root = Path(root)
    marker = read_marker(root)
    names = [*marker["train"], *marker["val"]]
    if digest_of(root, names) != marker["digest"]:
        raise ValueError(f"{root}: the fragments in scenes/ differ from those that {MARKER} sealed; {_remedy()}")
    _check_files(root, names, sizes=_sizes(root, marker, names))
    _check_tables(root, marker)
    try:
        return SyntheticSummary(**marker["counts"])
    except TypeError:
        raise ValueError(f"{root}: {MARKER} has no whole counts; delete it; {_remedy()}") from None


def _remedy() -> str:
    return "generate with the same settings again, into an empty folder if that does not help"


def _sizes(root: Path, marker: Mapping[str, Any], names: Iterable[str]) -> dict[str, int]:
    """Bytes of each data file: those written beside the marker, or of a tree without them those of its fragments."""
    path = root / FILES
    if "files" in marker and path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == marker["files"]:
        return _read_object(path, holding={})
    return sizes_of(read_fragment(root, name) for name in names)


def sizes_of(fragments: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Bytes of each data file of some fragments."""
    return {file: size for fragment in fragments for file, size in fragment["files"].items()}


def _check_files(root: Path, names: Iterable[str], *, sizes: Mapping[str, int]) -> None:
    there: dict[str, int] = {}
    for folder in (root / "can_bus", *root.glob("samples/*"), *root.glob("sweeps/*")):
        prefix = folder.relative_to(root).as_posix()
        if folder.is_dir():
            there |= {f"{prefix}/{entry.name}": entry.stat().st_size for entry in os.scandir(folder)}
    for file, size in sizes.items():
        if there.get(file) != size:
            found = f"has {there[file]} bytes" if file in there else "is missing"
            scene = next(name for name in names if file in read_fragment(root, name)["files"])
            raise ValueError(
                f"{root}: {file} {found}, expected {size} bytes; delete scenes/{scene}.json and {MARKER}, "
                f"then {_remedy()}"
            )


def _check_tables(root: Path, marker: dict[str, Any]) -> None:
    for table, digest in marker["tables"].items():
        path = root / marker["version"] / f"{table}.json"
        if not path.exists():
            raise ValueError(f"{root}: the table {path.name} is missing; delete {MARKER}, then {_remedy()}")
        if hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            raise ValueError(f"{root}: the table {path.name} is not as written; delete {MARKER}, then {_remedy()}")
