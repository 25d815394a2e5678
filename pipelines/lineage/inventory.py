"""What a store holds, artifact by artifact: stage, score, size, and what stands on what; from manifests alone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.lineage.chain import link_name
from pipelines.lineage.kinds import EVALUATION, MODELS
from pipelines.store.artifacts import Artifact, Store
from pipelines.store.locations import ZOO


@dataclass(frozen=True)
class Entry:
    """One artifact as a list shows it."""

    artifact: Artifact
    """The artifact."""
    stage: str
    """What tables call the model that it is, or of an evaluation the model that was scored; empty for other kinds."""
    scores: Mapping[str, Any]
    """NDS and mAP of the newest evaluation of it; empty where it was not evaluated."""

    @property
    def bytes(self) -> int:
        """Bytes of its files."""
        return sum(sealed.bytes for sealed in self.artifact.manifest.files.values())


def inventory(store: Store) -> list[Entry]:
    """Every artifact of a store whose manifest is sound, oldest first."""
    sealed = store.list()
    models = {artifact.digest: artifact for artifact in (*Store.zoo(ZOO).list(), *sealed)}
    scores = {str(one.manifest.parents.get("model")): _scores(one) for one in sealed if one.manifest.kind == EVALUATION}
    return [_entry(artifact, models=models, scores=scores) for artifact in sealed]


def _entry(artifact: Artifact, *, models: Mapping[str, Artifact], scores: Mapping[str, Mapping[str, Any]]) -> Entry:
    if artifact.manifest.kind == EVALUATION:
        model = models.get(str(artifact.manifest.parents.get("model")))
        return Entry(artifact, stage(model) if model else "a model that is gone", _scores(artifact))
    return Entry(artifact, stage(artifact), scores.get(artifact.digest, {}))


def scored_model(evaluation: Artifact, *, store: Store) -> Artifact | None:
    """The model that an evaluation scored; None where it is gone, and for other kinds."""
    digest = evaluation.manifest.parents.get("model") if evaluation.manifest.kind == EVALUATION else None
    return next((one for one in (*Store.zoo(ZOO).list(), *store.list()) if one.digest == digest), None)


def stage(model: Artifact) -> str:
    """What tables call a model artifact; empty for other kinds."""
    with contextlib.suppress(KeyError, AssertionError):  # a manifest that says less
        return link_name(model) if model.manifest.kind in MODELS else ""
    return model.manifest.kind


def standing_on(artifacts: Iterable[Artifact], *, sealed: Sequence[Artifact]) -> list[Artifact]:
    """Those of ``sealed`` that were made from any of some artifacts, through all generations, without these."""
    roots = {artifact.digest for artifact in artifacts}
    reached = set(roots)
    for artifact in _in_order(sealed):
        if reached & set(artifact.manifest.parents.values()):
            reached.add(artifact.digest)
    return [artifact for artifact in sealed if artifact.digest in reached - roots]


def orphans(store: Store) -> list[Artifact]:
    """Artifacts that were made from one which neither this store nor the shipped one has, and what stands on them."""
    sealed = store.list()
    known = {artifact.digest for artifact in (*Store.zoo(ZOO).list(), *sealed)}
    cut = [artifact for artifact in sealed if set(artifact.manifest.parents.values()) - known]
    return [*cut, *standing_on(cut, sealed=sealed)]


def _in_order(sealed: Sequence[Artifact]) -> list[Artifact]:
    """Parents before children, whatever their clocks said; each generation is found by another walk."""
    left, ordered = list(sealed), list[Artifact]()
    while left:
        waiting = {artifact.digest for artifact in left}
        ready = [artifact for artifact in left if not waiting & set(artifact.manifest.parents.values())] or left
        ordered += ready
        left = [artifact for artifact in left if artifact not in ready]
    return ordered


def _scores(evaluation: Artifact) -> dict[str, Any]:
    metrics = evaluation.manifest.metrics
    return {name: metrics[name] for name in ("NDS", "mAP") if name in metrics}
