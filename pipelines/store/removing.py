"""Removing from a store: a folder is renamed out of sight first, so that a killed removal leaves none half there."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

from pipelines.store.sealing import explained_writing

SCRATCH, CONTENT = ".scratch", ".unfinished-removed-"
_DAY_S = 86_400.0


def remove_folder(folder: Path) -> None:
    """Remove a folder of a store.

    Raises:
        StoreUnwritable: The store cannot be written.
    """
    with explained_writing(folder.parent):
        hidden = folder.with_name(f"{CONTENT}{os.getpid()}-{folder.name}")
        folder.rename(hidden)
    shutil.rmtree(hidden, ignore_errors=True)


def old_scratch(root: Path, *, days: float) -> list[Path]:
    """Folders of resume state in which nothing was written for so many days."""
    return unwritten_for((path for path in (root / SCRATCH).glob("*") if path.is_dir()), days=days)


def unwritten_for(folders: Iterable[Path], *, days: float) -> list[Path]:
    """Those of some folders in which nothing was written for so many days."""
    newest = time.time() - days * _DAY_S
    return sorted(folder for folder in folders if _last_written(folder) < newest)


def bytes_below(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())


def _last_written(folder: Path) -> float:
    return max(path.lstat().st_mtime for path in (folder, *folder.rglob("*")))
