"""A copy of an artifact for others, outside of every store: whole or not there, nothing of the user's overwritten."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from pipelines.store import processes
from pipelines.store.artifacts import Artifact
from pipelines.store.integrity import DamagedArtifact, read_manifest
from pipelines.store.sealing import fit_umask, fsync_tree, move_into_place, unfinished_folder


def copy_out(artifact: Artifact, *, to: Path, replace: bool) -> Path:
    """Copy an artifact to a folder.

    Args:
        artifact: Verified.
        to: The folder; its parents are made.
        replace: Put it in the place of another artifact that is there.

    Returns:
        The folder.

    Raises:
        ValueError: Something is there that stays.
        StoreUnwritable: The disk is full, or the folder cannot be written.
    """
    target = _place(to)

    def copied() -> None:
        refuse_occupied(to, replace=replace)
        with unfinished_folder(target.parent) as folder:
            shutil.copytree(artifact.path, folder, dirs_exist_ok=True)
            fit_umask(folder)
            fsync_tree(folder)
            move_into_place(folder, target=target, replace=replace)

    processes.agreed(copied)
    return target


def refuse_occupied(out: Path | None, *, replace: bool) -> None:
    """Refuse a folder where something lies; of an artifact, unless it is to be replaced.

    Raises:
        ValueError: Saying what lies there.
    """
    if out is None or not os.path.lexists(place := _place(out)) or (place.is_dir() and not any(place.iterdir())):
        return
    if not _is_artifact(place):
        raise ValueError(f"--out is {out}, where something else lies; name a folder that does not exist yet")
    if not replace:
        raise ValueError(f"--out is {out}, where an artifact lies; --force replaces it")


def _place(out: Path) -> Path:
    return Path(os.path.abspath(os.path.expanduser(out)))


def _is_artifact(place: Path) -> bool:
    try:
        return bool(read_manifest(place))
    except DamagedArtifact:
        return False
