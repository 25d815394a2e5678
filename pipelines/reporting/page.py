"""The one-file HTML report of a run: its claim, tables, curve, detections, sensitivity, and where all of it is from."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from pipelines.lineage.chain import Link
from pipelines.lineage.kinds import DETECTIONS_PICTURE
from pipelines.reporting.chain_tables import counted_scenes, data_of, few_scenes, is_drawn
from pipelines.reporting.runs import Run
from pipelines.reporting.training_curve import curve_svg
from pipelines.store.artifacts import Artifact
from profiles.wording import counted
from qdbev.reporting.charts.sensitivity_chart import sensitivity_picture
from qdbev.reporting.html import Card, Facts, Picture, Section, html_report
from qdbev.reporting.tables.rounding import percent_text, score_text, times_text
from qdbev.reporting.tables.table import Table

_SAMPLE = (
    "The key frame with the most boxes of the split. Boxes with a score of 0.3 or more; filled, from above: ground "
    "truth."
)


def html_page(run: Run, *, tables: Sequence[Table], sensitivity: Artifact | None) -> str:
    """The page.

    Args:
        run: What is reported.
        tables: Its tables, and the one of ``sensitivity``.
        sensitivity: Where the chart below the sensitivity table is from.
    """
    links = run.links
    sections = [
        Section(name=table.name, title=table.title, tables=(table,), pictures=_chart(table, sensitivity=sensitivity))
        for table in tables
    ]
    scored = sum(table.name in ("accuracy", "comparisons", "runs") for table in tables)
    sections[scored:scored] = _pictures(run)
    sections.append(Section(name="provenance", title="Provenance", facts=(*_command(run), *map(_facts, links))))
    title = f"{links[0].model.manifest.profile['model']['name']} in {links[-1].bits}"  # type: ignore[index, call-overload]
    return html_report(
        sections, title=title, subtitle=_subtitle(run), cards=[*_cards(links[0], links[-1]), *_best(tables)]
    )


def _subtitle(run: Run) -> str:
    """Data and day of the run's scores, and what is to be said of it."""
    evaluation = run.links[-1].evaluation or run.links[0].evaluation
    sentences = []
    if evaluation is not None:
        data, day = evaluation.manifest.data, evaluation.manifest.record.created[:10]
        scenes = int(str(data["scenes"]))
        told = f"{counted(int(str(data['samples'])), 'sample')} of {counted_scenes(scenes)}"
        sentences += [f"{told}, {data_of(evaluation)}, scored on {day}.", *few_scenes(scenes)]
    if run.remark:
        sentences.append(f"{run.remark[0].upper()}{run.remark[1:]}.")
    return " ".join(sentences)


def _command(run: Run) -> list[Facts]:
    """The command line and the time of the run, where they are known."""
    record = (run.compression or run.links[-1].model).manifest.record
    made = [("command", shlex.join(["qdbev", *record.command[1:]]))] if record.command else []
    return [Facts(title="run", entries=(*made, ("sealed", f"{record.created[:19]} UTC")))]


def _pictures(run: Run) -> list[Section]:
    """The training and the detections of one key frame, where they are known."""
    sections = []
    if is_drawn(run.links):
        drawing = curve_svg(run.links, intervals=run.intervals)
        picture = Picture(data=drawing, description="NDS and loss over all training stages")
        sections.append(Section(name="curve", title="Training", pictures=(picture,)))
    sealed = run.compression
    if sealed is not None and DETECTIONS_PICTURE in sealed.manifest.files:
        seen = "six cameras and the view from above: ground truth, float and quantized boxes"
        picture = Picture(data=sealed.file(DETECTIONS_PICTURE).read_bytes(), description=seen)
        sections.append(Section(name="detections", title="Detections of one sample", text=_SAMPLE, pictures=(picture,)))
    return sections


def _chart(table: Table, *, sensitivity: Artifact | None) -> tuple[Picture, ...]:
    if table.name != "sensitivity" or sensitivity is None:
        return ()
    rows: Any = sensitivity.manifest.metrics["rows"]
    drawing = sensitivity_picture(rows[1:], reference_nds=rows[0]["NDS"], form="svg")
    return (Picture(data=drawing, description="NDS lost when one part or layer alone is quantized"),)


def _cards(first: Link, last: Link) -> list[Card]:
    cards = []
    before, after = first.scores.get("NDS"), last.scores.get("NDS")
    if before and after is not None:
        cards.append(Card(label="NDS of float", value=percent_text(after / before), detail=f"{last.name}, {last.bits}"))
    for name in ("NDS", "mAP"):
        if first.scores and last.scores:
            detail = f"float {score_text(first.scores[name])}"
            cards.append(Card(label=name, value=score_text(last.scores[name]), detail=detail))
    if last.size_bytes and first.size_bytes:
        detail = f"{times_text(first.size_bytes / last.size_bytes)} smaller than float"
        cards.append(Card(label="file", value=f"{last.size_bytes / 1e6:.2f} MB", detail=detail))
    if "gbops" in first.cost and "gbops" in last.cost:
        fewer = first.cost["gbops"]["total"] / last.cost["gbops"]["total"]
        cards.append(
            Card(label="bit operations", value=times_text(fewer), detail="fewer than float, counted, not timed")
        )
    return cards


def _best(tables: Sequence[Table]) -> list[Card]:
    """The run of the name that keeps most of the float detector's score, where there are several."""
    ends = [row for table in tables if table.name == "runs" for row in table.rows if row["name"] != "float"]
    if not ends:
        return []
    best = max(ends, key=lambda row: row["NDS"])
    told = ", ".join(filter(None, (best["name"], best["bits"], best["made_with"])))
    return [Card(label="best run", value=percent_text(best["NDS_of_reference"]), detail=told)]


def _facts(link: Link) -> Facts:
    manifest = link.model.manifest
    entries: dict[str, str] = {"artifact": link.model.digest, "seed": str(manifest.seed)}
    if link.evaluation is not None:
        scored = link.evaluation.manifest
        count = f"{scored.data['samples']} samples of {counted_scenes(int(str(scored.data['scenes'])))}"
        entries |= {"evaluation": link.evaluation.digest, "scored on": f"{count}, {scored.record.created[:19]} UTC"}
    entries |= {name: str(value) for name, value in manifest.packages.items()}
    return Facts(title=link.name, entries=tuple(entries.items()))
