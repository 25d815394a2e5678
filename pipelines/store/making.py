"""Making an artifact: found by its key, or else made and sealed; the one place where ``--force`` is honoured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from pipelines.store.artifacts import Artifact, Store
from profiles.profile import Profile


class Asking(Protocol):
    """Who wants an artifact: a profile, a store, and whether what is sealed is made again."""

    @property
    def profile(self) -> Profile:
        """What is wanted."""

    @property
    def store(self) -> Store:
        """Where it is found or goes."""

    @property
    def force(self) -> bool:
        """Whether it is made again."""


@dataclass(frozen=True)
class Content:
    """What an artifact will hold, all work done."""

    write: Callable[[Path], object]
    """Writes the files into an empty folder."""
    parents: Mapping[str, str] = field(default_factory=dict)
    """Digests of parent artifacts by role."""
    data: Mapping[str, Any] = field(default_factory=dict)
    """Digest of the data split, sample tokens and the like."""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    """Numbers, nested freely."""
    packages: Mapping[str, str] = field(default_factory=dict)
    """Versions of packages."""
    notes: tuple[str, ...] = ()
    """Sentences worth keeping."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Durations; outside the digest."""
    message: str = ""
    """A sentence about the making, for the terminal."""


class Made(NamedTuple):
    """A sealed artifact, and a sentence about it."""

    artifact: Artifact
    message: str


def made(asking: Asking, kind: str, *, key: str, make: Callable[[], Content], known: str = "") -> Made:
    """The sealed artifact of a key: the one that is there, or else made now.

    Args:
        asking: Whose profile goes into the manifest; its store is looked into and written.
        kind: Kind of the artifact.
        key: Fingerprint of what decides the content (``pipelines.lineage.keys``).
        make: Does the work; called only where nothing is sealed under the key, or all is made again.
        known: The sentence where it was there.
    """
    if not asking.force and (artifact := asking.store.find(kind, key=key)):
        return Made(artifact, known)
    content = make()
    artifact = asking.store.seal(
        kind,
        profile=asking.profile,
        key=key,
        write=content.write,
        parents=content.parents,
        data=content.data,
        metrics=content.metrics,
        packages=content.packages,
        notes=content.notes,
        seconds=content.seconds,
        replace=asking.force,
    )
    return Made(artifact, content.message)
