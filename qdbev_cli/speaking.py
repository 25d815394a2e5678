"""Of several processes that a launcher has started, the first that ends before its time says why, and no other.

A file that only one of them can make tells which it is. It lies where torchrun keeps the errors of this start, or bears
the name of slurm's step. Where there is no such place, each says its own.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


class _Word:
    """Who has it."""

    mine: bool | None = None
    """Whether this process; None before anybody asked."""


def alone() -> bool:
    """Whether no launcher says of further processes; what it says need not be a number."""
    return os.environ.get("WORLD_SIZE", "1") == "1"


def has_word() -> bool:
    """Whether this process may say why it ends; the first of several that asks, for good."""
    if alone():
        return True
    if _Word.mine is None:
        _Word.mine = _taken(_place())
    return _Word.mine


def _place() -> Path | None:
    """The file, by what launchers say of this start; None where they say nothing that others do not say too."""
    if (error_file := os.environ.get("TORCHELASTIC_ERROR_FILE")) is not None:
        return Path(error_file).parent.parent / "said"  # beside the folders of all processes of this attempt
    step = [os.environ.get(f"SLURM_{name}") for name in ("JOB_ID", "STEP_ID")]
    if None in step:
        return None
    start = "-".join([*map(str, step), os.environ.get("SLURM_RESTART_COUNT", "0")])
    return Path(tempfile.gettempdir()) / f"qdbev-{start}-said"


def _taken(place: Path | None) -> bool:
    """Make the file; False where another process did."""
    try:
        if place is not None:
            os.close(os.open(place, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        return False
    except OSError:
        return True
    return True
