"""What an export says of its model: sealed scores, its own and its float model's, calibration samples, the licence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipelines.lineage.chain import Link, chain_of, lineage
from pipelines.lineage.kinds import FLOAT
from pipelines.store.artifacts import Artifact, Store
from pipelines.store.locations import SYNTHETIC
from qdbev.export.packed import Licence, Score, Scored

_SETTINGS = ("split", "max_boxes", "data")
_OURS = Licence("apache-2.0")
_NUSCENES = Licence("other", "nuscenes-terms-of-use", "https://www.nuscenes.org/terms-of-use")
_UNKNOWN = Licence("other", "that-of-the-imported-weights")


def scored_links(model: Artifact, *, store: Store) -> list[Link]:
    """The model and its float detector, with the newest scores that both have on the same samples.

    Returns:
        The model alone where float was not scored so; nothing where the model was not scored.
    """
    chain = chain_of(model, store=store)
    float_link, link = chain[0], chain[-1]
    if link.evaluation is None or link.scores.get("NDS") is None:
        return []
    if float_link.evaluation is None or _settings(float_link.evaluation) != _settings(link.evaluation):
        return [link]
    return [link, float_link]


def scored(links: Sequence[Link]) -> Scored | None:
    """The scores of these links, the first one's own."""
    if not links:
        return None
    assert links[0].evaluation is not None
    manifest = links[0].evaluation.manifest
    data: Any = manifest.profile["data"]
    synthetic = data["source"] == SYNTHETIC
    return Scored(
        data="QD-BEV synthetic scenes" if synthetic else f"nuScenes {data['version']}",
        kind="synthetic" if synthetic else "nuscenes",
        split=str(manifest.data["split"]),
        samples=int(str(manifest.data["samples"])),
        scores=[Score(f"{link.name} {link.bits}", link.scores) for link in links],
    )


def calibrated_on(model: Artifact, *, store: Store) -> list[str]:
    """Tokens of all samples that set ranges of a model, so that an export alone says where its scores would flatter."""
    stated: list[Any] = [
        ancestor.manifest.data.get("calibration_tokens", []) for ancestor in lineage(model, store=store)
    ]
    return list(dict.fromkeys(str(token) for tokens in stated for token in tokens))


def licence_of(model: Artifact, *, store: Store) -> Licence:
    """The licence of weights by what they were made from: shipped ones are ours, those of nuScenes follow its terms."""
    origin = lineage(model, store=store)[0].manifest
    if "imported_sha256" in origin.data:
        return _UNKNOWN
    data: Any = origin.profile["data"]
    return _OURS if origin.kind == FLOAT and data["source"] == SYNTHETIC else _NUSCENES


def _settings(evaluation: Artifact) -> list[object]:
    return [evaluation.manifest.data.get(name) for name in _SETTINGS]
