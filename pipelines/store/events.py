"""Event files of TensorBoard: beside artifacts, under their names. They hold times, so no digest can cover them."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path

from pipelines.store.removing import unwritten_for

EVENTS = "_tensorboard"


def events_of(artifact: Path) -> Path:
    """The folder of an artifact's events, there or not."""
    return artifact.parent / EVENTS / artifact.name


def event_folders(root: Path) -> list[Path]:
    """All folders of events in a store."""
    return sorted(path for path in (root / EVENTS).glob("*") if path.is_dir())


def lost_events(root: Path, *, artifacts: Iterable[Path], days: float) -> list[Path]:
    """Folders of events that no artifact has and no training wrote to for so many days.

    Args:
        root: Of the store.
        artifacts: Folders of all artifacts there.
        days: Time in which a training may still go on.
    """
    names = {path.name for path in artifacts}
    return unwritten_for((path for path in event_folders(root) if path.name not in names), days=days)


def where_to_look(artifacts: Iterable[Path]) -> list[str]:
    """A sentence on how to look at the curves of some artifacts; none where none has events."""
    roots = {path.parent for path in artifacts if events_of(path).is_dir()}
    return [f"curves as they grew: tensorboard --logdir {shlex.quote(str(root / EVENTS))}" for root in sorted(roots)]
