"""Which compression a profile means, and all compressions of its name side by side; no torch."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from pipelines.lineage.bit_plan import bits_label
from pipelines.lineage.chain import Link, chain_of, controls_of, link_name, sealed_chain
from pipelines.lineage.keys import compression_key
from pipelines.lineage.kinds import CALIBRATION, COMPRESSION, QAT, VGD
from pipelines.lineage.stated import stated_data, stated_weights
from pipelines.store.artifacts import Artifact, MissingArtifact, Store
from pipelines.store.locations import at_store
from profiles import Profile
from profiles.command_words import command_words
from profiles.detectors.detector import FEATURES
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
    compression: Artifact | None = None
    """What it was sealed as, where it is whole."""


def find_run(profile: Profile, *, store: Store) -> Run | None:
    """The run that a profile describes; None where there is none.

    Args:
        profile: As used, its bit plan by digest. Where it states no option, the newest run of its name will do; where
            something was made without options, a finished run that begins with it.
        store: Holds runs, or not.
    """
    if sealed := _sealed(profile, store=store):
        return _whole(sealed, store=store, remark="")
    stated = any(not word.startswith("model=") for word in profile.overrides)
    end = _unfinished(profile, store=store)
    if end and not stated and (finished := _beginning_with(end, store=store)):
        return _whole(finished, store=store, remark=f"shown is a finished run of {_named(finished)}")
    if end:
        links = chain_of(end, store=store, controls=controls_of(end, store=store))
        goes_on = f"`qdbev compress {command_words(profile)}{at_store(store.root)}` goes on"
        return Run(links, {}, f"this run is not finished: {_missing(end, profile=profile)}; {goes_on}")
    if stated:
        return None
    if newest := store.last(COMPRESSION, profile=profile.name, model=profile.model.name):
        return _whole(newest, store=store, remark=f"shown is the newest run of {_named(newest)}")
    return None


def nds_bounds(interval: Mapping[str, float] | None) -> dict[str, float]:
    """The ends of an interval as rows of tables have them."""
    return {"NDS_low": interval["low"], "NDS_high": interval["high"]} if interval else {}


def runs_table(profile: Profile, *, shown: Run, store: Store) -> list[Table]:
    """Every compression of a profile's name that was scored on the data of the one shown, a row each.

    Nothing where there are fewer than two. Of the options that runs were made with only those are told that tell them
    apart; runs that were scored on other data are counted.
    """
    name = f"{profile.name}-{profile.model.name}"
    sealed = {artifact.digest: artifact for artifact in store.list()}
    runs = [
        artifact
        for artifact in sealed.values()
        if (artifact.manifest.kind, artifact.manifest.name) == (COMPRESSION, name)
    ]
    alike = [run for run in runs if _scored_on(run, sealed=sealed) == _data_of(shown.links[0].evaluation)]
    shared = set.intersection(*(set(_words(run)) for run in alike)) if alike else set()
    rows = [row for run in alike for row in _rows(run, words=[w for w in _words(run) if w not in shared], store=store)]
    first = [row for row in rows if row["name"] == "float"][:1]
    ends = [row for row in rows if row["name"] != "float"]
    if len(ends) < 2:
        return []
    table = accuracy_table([*first, *ends], reference="float", title=f"All runs of {name}", name="runs")
    others = len(runs) - len(alike)
    notes = [f"{others} more were scored on other data: --set data.… shows them."] if others else []
    return [replace(table, notes=(*table.notes, *notes))]


def _scored_on(run: Artifact, *, sealed: Mapping[str, Artifact]) -> object:
    """Which data a compression was scored on."""
    return _data_of(sealed.get(run.manifest.parents.get("evaluation of float", "")))


def _data_of(evaluation: Artifact | None) -> object:
    return None if evaluation is None else evaluation.manifest.data.get("data")


def _missing(end: Artifact, *, profile: Profile) -> str:
    """What lies between the end of an unfinished chain and that of its profile."""
    kind, data = end.manifest.kind, end.manifest.data
    count = int(str(data["stages"])) if kind == QAT else profile.qat.stages
    done = int(str(data["stage"])) if kind == QAT else 0
    ahead = [] if kind == VGD else [f"stage {stage}/{count}" for stage in range(done + 1, count + 1)]
    if kind != VGD and profile.distillation.schedule.steps and profile.model.tapped == FEATURES:
        ahead.append("distillation")
    return f"{', '.join(ahead)} missing" if ahead else "its scores or their intervals are missing"


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
    return Run(sealed_chain(sealed, store=store), intervals, remark, sealed)


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


def _beginning_with(model: Artifact, *, store: Store) -> Artifact | None:
    """The newest compression of a model's name that stands on it."""
    for artifact in reversed(store.list()):
        if (artifact.manifest.kind, artifact.manifest.name) == (COMPRESSION, model.manifest.name):
            with contextlib.suppress(MissingArtifact):
                if model.digest in [link.model.digest for link in sealed_chain(artifact, store=store)]:
                    return artifact
    return None


def _named(run: Artifact) -> str:
    """A run by its name and the options that it was made with."""
    return f"{run.manifest.name}: {_in_short(_words(run)) or 'no options'}"


def _decided(artifact: Artifact, sections: dict[str, Any]) -> bool:
    """Whether an artifact was made by these sections, wherever its float weights were from."""
    stated: Any = artifact.manifest.profile
    model = {**stated["model"], "weights": None}
    return all((model if name == "model" else stated.get(name)) == content for name, content in sections.items())


def _rows(compression: Artifact, *, words: Sequence[str], store: Store) -> list[dict[str, Any]]:
    """The float detector and the end of a compression, as rows; nothing where its end is not there any more."""
    manifest = compression.manifest
    try:
        end = store.open(manifest.parents["model"])
    except MissingArtifact:
        return []
    metrics: Any = manifest.metrics
    name = link_name(end)
    bounds = nds_bounds(metrics["intervals"].get(name))
    row = {"name": name, "bits": bits_label(end), "made_with": _in_short(words), **metrics[name], **bounds}
    return [{"name": "float", "bits": "W32A32", "made_with": "", **metrics["float"]}, row]


def _words(run: Artifact) -> list[str]:
    """The options that a run was made with, as typed."""
    stated = run.manifest.record.circumstances.get("overrides")
    words = [str(word) for word in stated] if isinstance(stated, list) else []
    profile: Any = run.manifest.profile
    own = profile["quantization"].get("plan") and profile["qat"]["steps_per_stage"] == 0
    return ["own bits, no training"] * bool(own) + words


def _in_short(words: Sequence[str]) -> str:
    """The first options, and how many more there are."""
    more = f" and {len(words) - _SHOWN} more" if len(words) > _SHOWN else ""
    return ", ".join(words[:_SHOWN]) + more
