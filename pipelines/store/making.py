"""Making an artifact: found by its key, or else made and sealed; the one place where ``--force`` is honoured.

Two processes never make one key at once: the second waits and takes what the first sealed.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from pipelines.store import locks, processes
from pipelines.store.artifacts import Artifact, DamagedArtifact, Store
from pipelines.store.sealing import explained_writing
from profiles.profile import Profile

_LOG = logging.getLogger(__name__)
_LOCKS = ".locks"
_BY_ANOTHER = "made by another process, which this one waited for"


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

    @property
    def progress(self) -> bool:
        """Whether it is shown for whom a process waits."""


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
        _LOG.debug("found %s", artifact.path.name)
        return Made(artifact, known)
    asked = datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds")
    with _alone(asking, kind, key=key) as waited:
        if (waited or not asking.force) and (artifact := _made_meanwhile(asking, kind, key=key, asked=asked)):
            return Made(artifact, _BY_ANOTHER if waited else known)
        content = make()
        sealed = _sealed(asking, kind, key=key, content=content)
        _LOG.debug("sealed %s", sealed.path.name)
        return Made(sealed, content.message)


@contextlib.contextmanager
def _alone(asking: Asking, kind: str, *, key: str) -> Iterator[bool]:
    """Hold the lock of a key and tell whether another process held it first; of several started together, the first."""
    path = asking.store.root / _LOCKS / f"{kind}-{key[:12]}.lock"

    def entered() -> bool:
        with explained_writing(asking.store.root):
            return held.enter_context(locks.alone(path, progress=asking.progress))

    with contextlib.ExitStack() as held:
        yield processes.agreed(entered)


def _made_meanwhile(asking: Asking, kind: str, *, key: str, asked: str) -> Artifact | None:
    """What another process sealed under the key; to one that forces, what was sealed before it asked does not count."""
    with contextlib.suppress(*[DamagedArtifact] if asking.force else []):
        artifact = asking.store.find(kind, key=key)
        if artifact is not None and (not asking.force or artifact.manifest.record.created >= asked):
            return artifact
    return None


def _sealed(asking: Asking, kind: str, *, key: str, content: Content) -> Artifact:
    return asking.store.seal(
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
