"""Which compression a profile means, and all compressions of its name side by side; no torch."""

from __future__ import annotations

from typing import Any, NamedTuple

from pipelines.lineage.bit_plan import bits_label
from pipelines.lineage.chain import Link, chain_of, controls_of, link_name, sealed_chain
from pipelines.lineage.keys import compression_key
from pipelines.lineage.kinds import CALIBRATION, COMPRESSION, QAT, VGD
from pipelines.lineage.stated import stated_data, stated_weights
from pipelines.store.artifacts import Artifact, MissingArtifact, Store
from profiles import Profile
from profiles.profile import Section
from qdbev.reporting.tables.results import accuracy_table
from qdbev.reporting.tables.table import Table

Intervals = dict[str, dict[str, float]]
"""Paired intervals of NDS, ``low`` and ``high``, by what is compared."""

_SHOWN = 2
"""Options of a run that are shown; the others are counted."""

_ENDS: dict[str, tuple[Section, ...]] = {VGD: ("qat", "distillation"), QAT: ("qat",), CALIBRATION: ()}
"""Kinds that a chain may end with -> sections that decide them besides model, quantization, calibration and data."""


class Run(NamedTuple):
    """A compression, or as much of one as there is."""

    links: list[Link]
    """Its chain, the float detector first."""
    intervals: Intervals
    """Paired intervals, where it is whole."""
    remark: str
    """A sentence where it is not just what was asked for."""


def find_run(profile: Profile, *, store: Store) -> Run | None:
    """The run that a profile describes; None where there is none.

    Args:
        profile: As used, its bit plan by digest. Where it states no option, the newest run of its name will do.
        store: Holds runs, or not.
    """
    if sealed := _sealed(profile, store=store):
        return _whole(sealed, store=store, remark="")
    if end := _unfinished(profile, store=store):
        links = chain_of(end, store=store, controls=controls_of(end, store=store))
        names = f"--profile {profile.name} --model {profile.model.name}"
        return Run(links, {}, f"this run is not finished; `qdbev compress {names}` with the same options goes on")
    if any(not word.startswith("model=") for word in profile.overrides):
        return None
    if newest := store.last(COMPRESSION, profile=profile.name, model=profile.model.name):
        return _whole(
            newest, store=store, remark=f"shown is the newest run of {newest.manifest.name}: {_words(newest)}"
        )
    return None


def runs_table(profile: Profile, *, store: Store) -> list[Table]:
    """Every compression of a profile's name in the store, a row each; nothing where there are fewer than two."""
    name = f"{profile.name}-{profile.model.name}"
    rows: list[dict[str, Any]] = []
    for artifact in store.list():
        if (artifact.manifest.kind, artifact.manifest.name) == (COMPRESSION, name):
            rows += _rows(artifact, store=store)
    first = [row for row in rows if row["name"] == "float"][:1]
    ends = [row for row in rows if row["name"] != "float"]
    if len(ends) < 2:
        return []
    return [accuracy_table([*first, *ends], reference="float", title=f"All runs of {name}", name="runs")]


def _sealed(profile: Profile, *, store: Store) -> Artifact | None:
    """The compression of exactly this profile, that with controls first."""
    try:
        weights, data = stated_weights(profile, store=store), stated_data(profile.data)
    except MissingArtifact:
        return None
    for controls in (True, False):
        key = compression_key(profile, controls=controls, weights=weights, data=data)
        if artifact := store.find(COMPRESSION, key=key):
            return artifact
    return None


def _whole(sealed: Artifact, *, store: Store, remark: str) -> Run:
    intervals: Any = sealed.manifest.metrics.get("intervals", {})
    return Run(sealed_chain(sealed, store=store), intervals, remark)


def _unfinished(profile: Profile, *, store: Store) -> Artifact | None:
    """The furthest and newest model that was made by this profile's sections."""
    name = f"{profile.name}-{profile.model.name}"
    sealed = [artifact for artifact in store.list() if artifact.manifest.name == name]
    for kind, sections in _ENDS.items():
        decided = profile.deciding("model", "quantization", "calibration", "data", *sections)
        for artifact in reversed(sealed):
            of_kind = (artifact.manifest.kind, artifact.manifest.seed) == (kind, profile.seed)
            if of_kind and _decided(artifact, decided):
                return store.verify(artifact)
    return None


def _decided(artifact: Artifact, sections: dict[str, Any]) -> bool:
    """Whether an artifact was made by these sections, wherever its float weights were from."""
    stated: Any = artifact.manifest.profile
    model = {**stated["model"], "weights": None}
    return all((model if name == "model" else stated.get(name)) == content for name, content in sections.items())


def _rows(compression: Artifact, *, store: Store) -> list[dict[str, Any]]:
    """The float detector and the end of a compression, as rows; nothing where its end is not there any more."""
    manifest = compression.manifest
    try:
        end = store.open(manifest.parents["model"])
    except MissingArtifact:
        return []
    metrics: Any = manifest.metrics
    name = link_name(end)
    interval = metrics["intervals"].get(name)
    bounds = {"NDS_low": interval["low"], "NDS_high": interval["high"]} if interval else {}
    row = {"name": name, "bits": bits_label(end), "made_with": _words(compression), **metrics[name], **bounds}
    return [{"name": "float", "bits": "W32A32", "made_with": "", **metrics["float"]}, row]


def _words(artifact: Artifact) -> str:
    """The options that a run was made with, as typed."""
    stated = artifact.manifest.record.circumstances.get("overrides")
    words = [str(word) for word in stated] if isinstance(stated, list) else []
    profile: Any = artifact.manifest.profile
    if profile["quantization"].get("plan") and profile["qat"]["steps_per_stage"] == 0:
        words.insert(0, "own bits, no training")
    more = f" and {len(words) - _SHOWN} more" if len(words) > _SHOWN else ""
    return ", ".join(words[:_SHOWN]) + more if words else "no options"
