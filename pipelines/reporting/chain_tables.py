"""The tables of a chain, from its sealed manifests alone: size, bit operations, accuracy, sensitivity."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pipelines.lineage.bit_plan import bits_label
from pipelines.lineage.chain import Link
from pipelines.lineage.kinds import QAT, SENSITIVITY, VGD
from pipelines.reporting.runs import Intervals
from pipelines.store.artifacts import Artifact, Store
from pipelines.store.locations import SYNTHETIC
from profiles import Profile
from profiles.sections.schedule import PARTS
from qdbev.reporting.tables.costs import bops_table, size_table
from qdbev.reporting.tables.results import accuracy_table, comparison_table, sensitivity_table
from qdbev.reporting.tables.table import Table

_MEGABYTE = 2**20


def chain_tables(links: Sequence[Link], *, intervals: Intervals) -> list[Table]:
    """Accuracy, size and bit operations; a table is left out while nothing for it is known."""
    tables = []
    scored = [link for link in links if link.evaluation is not None]
    if scored and scored[0] is links[0]:
        rows = [
            {"name": link.name, "bits": link.bits, **link.scores, **_bounds(intervals.get(link.name))}
            for link in scored
        ]
        accuracy = accuracy_table(rows, reference=links[0].name)
        tables.append(replace(accuracy, notes=(*accuracy.notes, *_scored_on(scored))))
        tables += _comparisons(scored, intervals=intervals)
    sized = [link for link in links if link.size_bytes is not None and "size_nominal_mb" in link.cost]
    sized = [link for link in sized if not link.control]
    if sized and sized[0] is links[0]:
        tables.append(size_table([_size_row(link) for link in sized], reference=links[0].name))
        tables.append(bops_table([row for link in sized for row in _bops_rows(link)], reference=links[0].name))
    return tables


def _scored_on(scored: Sequence[Link]) -> Iterator[str]:
    """On what the scores stand, a sentence for each data set."""
    stands: dict[str, list[str]] = {}
    for link in scored:
        assert link.evaluation is not None
        manifest = link.evaluation.manifest
        data: Any = manifest.profile["data"]
        source = "synthetic scenes" if data["source"] == SYNTHETIC else f"{data['version']} in {data['source']}"
        count = f"{manifest.data['samples']} samples of {manifest.data['scenes']} scenes"
        stands.setdefault(f"{count}, split {manifest.data['split']} of {source}", []).append(manifest.record.created)
    for data, times in stands.items():
        days = sorted({time[:10] for time in times})
        yield f"Scored on {data}, {' to '.join(dict.fromkeys([days[0], days[-1]]))}."


def _comparisons(scored: Sequence[Link], *, intervals: Intervals) -> list[Table]:
    """The end of the chain against each control; without any, nothing."""
    *_, end = scored
    rows = []
    for control in scored:
        if control.control:
            change = float(str(end.scores["NDS"])) - float(str(control.scores["NDS"]))
            bounds = _bounds(intervals.get(against(end.name, control.name)))
            rows.append({"name": end.name, "than": control.name, "NDS_change": change, **bounds})
    return [comparison_table(rows, title="Against controls")] if rows else []


def against(name: str, control: str) -> str:
    """What the interval of a difference to a control is called in a compression artifact."""
    return f"{name} - {control}"


def find_sensitivity(profile: Profile, *, bits: str, store: Store) -> Artifact | None:
    """The newest sensitivity of the profile's name with these bits; of other bits if there is none; None without any.

    ``sensitivity --bits`` changes the bits and leaves the profile's name.
    """
    names = {"profile": profile.name, "model": profile.model.name}
    newest = store.last(SENSITIVITY, **names)
    if newest is None or bits_label(newest) == bits:
        return newest
    named = (SENSITIVITY, newest.manifest.name)
    measured = [entry for entry in store.list() if (entry.manifest.kind, entry.manifest.name) == named]
    alike = [entry for entry in measured if bits_label(entry) == bits]
    return store.verify(alike[-1]) if alike else newest


def sensitivity_tables(measured: Artifact | None) -> list[Table]:
    """The table of a sensitivity, with its bits and level in the title and, for CSV, in every row."""
    if measured is None:
        return []
    bits, level = bits_label(measured), measured.manifest.data.get("level", "part")
    scored: Any = measured.manifest.metrics["rows"]
    rows = [{**row, "bits": "W32A32" if row["name"] == "float" else bits, "level": level} for row in scored]
    return [sensitivity_table(rows, reference="float", title=f"Sensitivity, {bits}, each {level} alone")]


def chain_metrics(links: Sequence[Link], *, intervals: Intervals) -> dict[str, Any]:
    """The same numbers by model name, for ``--json``."""
    return {
        link.name: {
            "bits": link.bits,
            "artifact": link.model.digest,
            "file_bytes": link.size_bytes,
            **{name: link.cost[name] for name in ("size_nominal_mb", "gbops") if name in link.cost},
            **link.scores,
            **_bounds(intervals.get(link.name)),
        }
        for link in links
    }


def is_drawn(links: Sequence[Link]) -> bool:
    """Whether there is a training curve with a score in it; stages of no steps have none."""
    models = [link.model.manifest for link in links if link.scores]
    return any(model.kind in (QAT, VGD) and model.metrics.get("steps") != 0 for model in models)


def _size_row(link: Link) -> dict[str, Any]:
    nominal = float(link.cost["size_nominal_mb"]) * _MEGABYTE
    return {"name": link.name, "bits": link.bits, "nominal_bytes": nominal, "artifact_bytes": link.size_bytes}


def _bops_rows(link: Link) -> list[dict[str, Any]]:
    parts = link.cost["gbops"]
    return [
        {"name": link.name, "bits": link.bits, "part": part, "bops": parts[part] * 1e9}
        for part in sorted(parts.keys() - {"total"}, key=PARTS.index)
    ]


def _bounds(interval: Mapping[str, float] | None) -> dict[str, float]:
    return {"NDS_low": interval["low"], "NDS_high": interval["high"]} if interval else {}
