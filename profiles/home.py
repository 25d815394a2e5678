"""Paths as people type them: ``~`` is the home folder, whoever's it is."""

from __future__ import annotations

import os
from pathlib import Path

from profiles.document import ProfileError
from profiles.wording import quoted


def expanded(path: str | Path) -> Path:
    """A path with ``~`` or ``~name`` at its start replaced by that home folder.

    Raises:
        ProfileError: There is no such home.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        home = quoted(Path(path).parts[0])
        raise ProfileError(f"there is no home folder {home}; write the path in full, or ./~... for a name") from None


def is_file(path: Path) -> bool:
    """Whether there is a file to read; a path that no file can have (too long, a circle of links) is none."""
    try:
        return path.is_file()
    except OSError:
        return False


def what_lies(path: Path) -> str:
    """What a path leads to where that is no plain file, in words; nothing where there is a file, or nothing at all.

    >>> what_lies(Path("/"))
    'is a folder'
    """
    if not os.path.lexists(path) or is_file(path):
        return ""
    if path.is_dir():
        return "is a folder"
    return "is a link that leads nowhere" if path.is_symlink() and not _exists(path) else "is no plain file"


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False
