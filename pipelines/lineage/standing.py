"""What artifacts stand on: themselves and all they were made from, checked byte by byte before one claims anything."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

from pipelines.lineage.agreement import check_agreement
from pipelines.store.artifacts import Artifact, Store
from pipelines.store.integrity import FutureArtifact, read_manifest
from pipelines.store.locations import ZOO


def verify_standing(artifacts: Iterable[Artifact], *, store: Store) -> None:
    """Check artifacts and, through all generations, what they were made from, as far as it is there.

    Args:
        artifacts: What a claim is made of.
        store: Holds them, or the shipped store does.

    Raises:
        DamagedArtifact: Naming the one that is damaged, or whose files contradict its manifest. One of their names
            whose manifest cannot be read could be an ancestor, so it is damage too.
    """
    zoo = Store.zoo(ZOO)
    known = {artifact.digest: (artifact, place) for place in (zoo, store) for artifact in place.list()}
    waiting, sound = list(artifacts), set[str]()
    refuse_unreadable({artifact.manifest.name for artifact in waiting}, store=store)
    while waiting:
        artifact = waiting.pop()
        if artifact.digest in sound:
            continue
        _, place = known.get(artifact.digest, (artifact, store))
        check_agreement(place.verify(artifact))
        sound.add(artifact.digest)
        parents = artifact.manifest.parents.values()
        waiting += [known[digest][0] for digest in parents if digest in known]


def refuse_unreadable(names: Iterable[str], *, store: Store) -> None:
    """Refuse folders of the store that go by one of these names and have no readable manifest.

    Args:
        names: Profile and model, such as ``w4a6-nano``.
        store: Where they would lie.

    Raises:
        DamagedArtifact: Naming the folder.
    """
    for folder in store.folders():
        if any(f"-{name}-" in folder.name for name in names):
            with contextlib.suppress(FutureArtifact):
                read_manifest(folder)
