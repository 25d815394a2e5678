"""Where a report goes, and how it gets there: whole files or none, and one sentence where that cannot be."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pipelines.store.artifacts import DamagedArtifact, Store, StoreUnwritable
from pipelines.store.integrity import read_manifest

ENDINGS = {"table": ".txt", "md": ".md", "csv": ".csv", "json": ".json", "html": ".html"}


class Places(NamedTuple):
    """Where a report goes."""

    document: Path | None
    """The tables or the page; None prints them."""
    curve: Path | None
    """The picture of the training; None leaves it out."""
    page: Path | None = None
    """The page beside what is printed; None leaves it out."""


def find_places(out: Path | None, *, format: str, store: Store) -> Places:
    """Where document, curve and page go; nothing is written yet.

    Raises:
        ValueError: An unknown format, or ``out`` is no such file or folder, or lies in an artifact.
    """
    if format not in ENDINGS:
        raise ValueError(f"format is {format!r}; it must be one of {', '.join(ENDINGS)}")
    name = f"report{ENDINGS[format]}"
    if out is None:
        folder = store.root / "_report"
        return Places(None, folder / "curve.png", folder / "report.html")
    with explained(out, store=store):
        path = Path(os.path.expanduser(out))  # as it is where the user is unknown
        _refuse_sealed(path, store=store)
        if _checked_file(path, example=ENDINGS[format]):
            return Places(path, None)
        return Places(path / name, path / "curve.png")


def _refuse_sealed(path: Path, *, store: Store) -> None:
    """Refuse to write into an artifact, whatever way the path takes there.

    Raises:
        ValueError: Naming the artifact.
    """
    place = path.resolve()
    artifacts = [folder.resolve() for folder in store.folders()]
    for folder in (place, *place.parents):
        if folder in artifacts or _is_sealed(folder):
            raise ValueError(f"--out is {path}, which lies in the artifact {folder.name}; give another file or folder")


def _is_sealed(folder: Path) -> bool:
    """Whether a folder is an artifact, of any store."""
    with contextlib.suppress(DamagedArtifact):
        return bool(read_manifest(folder))
    return False


def write(
    places: Places, *, document: str, page: str = "", curve: bytes | None = None, macs: bytes | None = None
) -> list[str]:
    """Write what has a place; a sentence for each file, the page last."""
    files = [
        ("training curve", places.curve, curve),
        ("multiply-accumulates by part", places.curve and places.curve.with_name("macs.png"), macs),
        ("report", places.document, document.encode()),
        ("report", places.page, page.encode() or None),
    ]
    made = []
    for name, path, content in files:
        if path is not None and content is not None:
            _write_whole(path, content=content)
            made.append(f"{name}: {path}")
    return made


def _write_whole(path: Path, *, content: bytes) -> None:
    """Write a file, whole or not at all, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".qdbev-report-{os.getpid()}")
    try:
        with unfinished.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


@contextlib.contextmanager
def explained(out: Path | None, *, store: Store) -> Iterator[None]:
    """Turn failures to write into one sentence: the user's mistake for ``out``, the store's trouble otherwise."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if out is None:
            place = f"{store.root / '_report'} cannot be written: {reason}"
            raise StoreUnwritable(f"{place}; make room there, or choose another place with --out") from error
        problem = StoreUnwritable if error.errno in (errno.ENOSPC, errno.EDQUOT) else ValueError
        raise problem(f"--out is {out}, which cannot be written: {reason}; give another file or folder") from error


def _checked_file(path: Path, *, example: str) -> bool:
    """Whether a path given as ``--out`` is a file: it has an ending, and is no folder with a dot in its name.

    Raises:
        ValueError: What is there is not what the path is taken for, or stands where its folder should be.
    """
    is_folder = path.is_dir()
    is_file = bool(path.suffix) and not (is_folder and path.suffix.lower() not in ENDINGS.values())
    if is_file and is_folder:
        raise ValueError(
            f"--out is {path}, which is a folder, but a name ending in {path.suffix} is taken for a file; give the "
            f"name of a file, such as {path / 'report'}{path.suffix}"
        )
    if not is_file and not is_folder and path.exists():
        raise ValueError(
            f"--out is {path}, which is a file, but a name without an ending is taken for a folder; give "
            f"{path.name}{example} or another folder"
        )
    above = next((folder for folder in path.parents if folder.exists()), None)
    if above is not None and not above.is_dir():
        raise ValueError(f"--out is {path}, but {above} is a file, not a folder; give another file or folder")
    return is_file
