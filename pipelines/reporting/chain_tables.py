"""The tables of a chain, from its sealed manifests alone: size, bit operations, accuracy, sensitivity."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from pipelines.lineage.bit_plan import bits_label
from pipelines.lineage.chain import Link
from pipelines.lineage.kinds import EVALUATION, ONNX, QAT, SCORES, SENSITIVITY, TO_TRAINED, VGD
from pipelines.reporting.runs import Intervals, nds_bounds
from pipelines.store.artifacts import Artifact, Store
from pipelines.store.locations import SYNTHETIC
from profiles import Profile
from profiles.sections.evaluation import FEWEST_SCENES, TELLING_SCENES
from profiles.sections.schedule import PARTS
from qdbev.reporting.tables.costs import bops_table, size_table
from qdbev.reporting.tables.results import accuracy_table, comparison_table, sensitivity_table
from qdbev.reporting.tables.table import Table

_MEGABYTE = 2**20


def chain_tables(links: Sequence[Link], *, intervals: Intervals) -> list[Table]:
    """Accuracy, size and bit operations; a table is left out while nothing for it is known."""
    return [*accuracy_tables(links, intervals=intervals), *cost_tables(links)]


def accuracy_tables(links: Sequence[Link], *, intervals: Intervals) -> list[Table]:
    """Accuracy, and the end of the chain against its controls; nothing while the float detector has no scores."""
    scored = [link for link in links if link.evaluation is not None]
    if not scored or scored[0] is not links[0]:
        return []
    rows = [
        {"name": link.name, "bits": link.bits, **link.scores, **nds_bounds(intervals.get(link.name))} for link in scored
    ]
    accuracy = accuracy_table(rows, reference=links[0].name)
    told = replace(accuracy, notes=(*accuracy.notes, *_scored_on(scored)))
    return [told, *_comparisons(scored, intervals=intervals)]


def executed_tables(end: Link, *, store: Store) -> list[Table]:
    """The end of a chain against its exported graphs, each as a runtime scored it; nothing where none was scored."""
    if end.evaluation is None:
        return []
    artifacts = store.list()
    graphs = {
        artifact.digest
        for artifact in artifacts
        if artifact.manifest.kind == ONNX and artifact.manifest.parents["model"] == end.model.digest
    }
    data = end.evaluation.manifest.data["data"]
    ran = {
        f"executed by {artifact.manifest.data['runtime']}": artifact.manifest.metrics
        for artifact in artifacts
        if artifact.manifest.kind == EVALUATION
        and artifact.manifest.parents["model"] in graphs
        and artifact.manifest.data["data"] == data
    }
    rows: list[dict[str, Any]] = [{"name": end.name, "bits": end.bits, **end.scores}]
    for name, metrics in ran.items():
        bounds: Any = metrics.get(TO_TRAINED)
        rows.append({"name": name, "bits": end.bits, **{key: metrics[key] for key in SCORES}, **nds_bounds(bounds)})
    return [accuracy_table(rows, reference=end.name, title="Executed", name="executed")] if ran else []


def cost_tables(links: Sequence[Link]) -> list[Table]:
    """Size and bit operations; nothing while those of the float detector are not known."""
    sized = [link for link in links if link.size_bytes is not None and "size_nominal_mb" in link.cost]
    sized = [link for link in sized if not link.control]
    if not sized or sized[0] is not links[0]:
        return []
    first = links[0].name
    operations = [row for link in sized for row in _bops_rows(link)]
    unseen = dict.fromkeys(path for link in sized for path in link.cost.get("not_counted", ()))
    return [
        size_table([_size_row(link) for link in sized], reference=first),
        bops_table(operations, reference=first, not_counted=list(unseen)),
    ]


def _scored_on(scored: Sequence[Link]) -> Iterator[str]:
    """On what the scores stand, a sentence for each data set, and why there is no interval of few scenes."""
    stands: dict[str, list[str]] = {}
    few = [scenes for link in scored if (scenes := _scenes(link)) < FEWEST_SCENES]
    for link in scored:
        assert link.evaluation is not None
        manifest = link.evaluation.manifest
        told = f"{manifest.data['samples']} samples of {counted_scenes(_scenes(link))}, {data_of(link.evaluation)}"
        stands.setdefault(told, []).append(manifest.record.created)
    for told, times in stands.items():
        days = sorted({time[:10] for time in times})
        yield f"Scored on {told}, {' to '.join(dict.fromkeys([days[0], days[-1]]))}."
    if few:
        yield f"No intervals: {counted_scenes(min(few))}, and {FEWEST_SCENES} are the fewest that give one."
    yield from few_scenes(min(map(_scenes, scored), default=TELLING_SCENES))


def few_scenes(count: int) -> list[str]:
    """A sentence where so many scenes show how it works and no more."""
    return [f"Scores of {counted_scenes(count)} show that it runs, not how well."] if count < TELLING_SCENES else []


def counted_scenes(count: int) -> str:
    """So many scenes, in words."""
    return "1 scene" if count == 1 else f"{count} scenes"


def data_of(artifact: Artifact) -> str:
    """Split and source of the data that scores of an artifact stand on."""
    profile: Any = artifact.manifest.profile
    data, split = profile["data"], profile["evaluation"]["split"]
    source = "synthetic scenes" if data["source"] == SYNTHETIC else f"{data['version']} in {data['source']}"
    return f"split {split} of {source}"


def _scenes(link: Link) -> int:
    assert link.evaluation is not None
    return int(str(link.evaluation.manifest.data["scenes"]))


def _comparisons(scored: Sequence[Link], *, intervals: Intervals) -> list[Table]:
    """The end of the chain against each control; without any, nothing."""
    *_, end = scored
    rows = []
    for control in scored:
        if control.control:
            change = float(str(end.scores["NDS"])) - float(str(control.scores["NDS"]))
            bounds = nds_bounds(intervals.get(against(end.name, control.name)))
            rows.append({"name": end.name, "than": control.name, "NDS_change": change, **bounds})
    return [comparison_table(rows, title="Against controls")] if rows else []


def against(name: str, control: str) -> str:
    """What the interval of a difference to a control is called in a compression artifact."""
    return f"{name} - {control}"


def find_sensitivity(profile: Profile, *, end: Link, store: Store) -> Artifact | None:
    """The sensitivity of the profile's name that says most of a chain; None without any.

    With the bits of its end and on its scenes, or else with its bits, or else any; of equals the newest.
    ``sensitivity --bits`` changes the bits and leaves the profile's name.
    """
    name, bits = f"{profile.name}-{profile.model.name}", bits_label(end.model)
    of_name = (entry for entry in store.list() if entry.manifest.kind == SENSITIVITY and entry.manifest.name == name)
    measured = sorted(of_name, key=lambda entry: (bits_label(entry) == bits, _on_scenes_of(entry, [end])))
    return store.verify(measured[-1]) if measured else None


def _on_scenes_of(measured: Artifact, chain: Sequence[Link]) -> bool:
    """Whether a sensitivity was measured on scenes that a chain was scored on."""
    scored = [link.evaluation.manifest.data.get("data") for link in chain if link.evaluation is not None]
    return measured.manifest.data.get("val") in scored


def sensitivity_tables(measured: Artifact | None, *, chain: Sequence[Link]) -> list[Table]:
    """The table of a sensitivity, with its bits and level in the title and, for CSV, in every row.

    Where it stands on other scenes than the scores of the chain, title and notes say so.
    """
    if measured is None:
        return []
    manifest = measured.manifest
    bits, level = bits_label(measured), manifest.data.get("level", "part")
    scored: Any = manifest.metrics["rows"]
    rows = [{**row, "bits": "W32A32" if row["name"] == "float" else bits, "level": level} for row in scored]
    scenes = [f"{counted_scenes(int(str(manifest.data['scenes'])))}, "] if "scenes" in manifest.data else []
    notes = [f"Scored on {''.join(scenes)}{data_of(measured)}, {manifest.record.created[:10]}."]
    title = f"Sensitivity, {bits}, each {level} alone"
    if not _on_scenes_of(measured, chain):
        title += ", on other scenes"
        notes.append("These are other scenes than those of the accuracy above: the two do not compare.")
    table = sensitivity_table(rows, reference="float", title=title)
    return [replace(table, notes=(*table.notes, *notes))]


def chain_metrics(links: Sequence[Link], *, intervals: Intervals) -> dict[str, Any]:
    """The same numbers by model name, for ``--json``."""
    return {
        link.name: {
            "bits": link.bits,
            "artifact": link.model.digest,
            "file_bytes": link.size_bytes,
            **({"nominal_bytes": _nominal_bytes(link)} if "size_nominal_mb" in link.cost else {}),
            **({"bops": _bops(link)} if "gbops" in link.cost else {}),
            **link.scores,
            **nds_bounds(intervals.get(link.name)),
        }
        for link in links
    }


def is_drawn(links: Sequence[Link]) -> bool:
    """Whether there is a training curve with a score in it; stages of no steps have none."""
    models = [link.model.manifest for link in links if link.scores]
    return any(model.kind in (QAT, VGD) and model.metrics.get("steps") != 0 for model in models)


def _size_row(link: Link) -> dict[str, Any]:
    size = {"nominal_bytes": _nominal_bytes(link), "artifact_bytes": link.size_bytes}
    return {"name": link.name, "bits": link.bits, **size}


def _nominal_bytes(link: Link) -> float:
    return float(link.cost["size_nominal_mb"]) * _MEGABYTE


def _bops(link: Link) -> dict[str, float]:
    return {part: billions * 1e9 for part, billions in link.cost["gbops"].items()}


def _bops_rows(link: Link) -> list[dict[str, Any]]:
    parts = _bops(link)
    return [
        {"name": link.name, "bits": link.bits, "part": part, "bops": parts[part]}
        for part in sorted(parts.keys() - {"total"}, key=PARTS.index)
    ]
