"""report: tables of size, bit operations and accuracy, and the training curve, from sealed artifacts alone.

Where there are none, what the model costs by its numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.assembly.job import Job
from pipelines.lineage.models import as_made
from pipelines.lineage.standing import refuse_unreadable, verify_standing
from pipelines.reporting.chain_tables import (
    accuracy_tables,
    chain_metrics,
    cost_tables,
    executed_tables,
    find_sensitivity,
    is_drawn,
    sensitivity_tables,
)
from pipelines.reporting.files import Places, explained, find_places, write
from pipelines.reporting.outcome import Outcome
from pipelines.reporting.page import html_page
from pipelines.reporting.runs import Run, find_run, runs_table
from pipelines.reporting.training_curve import curve_png
from pipelines.store.artifacts import MissingArtifact, Store
from pipelines.store.locations import at_store
from profiles import Profile
from profiles.command_words import command_words
from qdbev.reporting.tables.table import Table, render_all

_DOCUMENTS = ("md", "csv", "json")


@dataclass(frozen=True)
class _Report:
    """What is reported, whatever its format."""

    tables: list[Table]
    """In the order they are read."""
    metrics: Mapping[str, Any]
    """Their numbers."""
    curve: bytes | None = None
    """Picture of the training."""
    macs: bytes | None = None
    """Picture of the multiply-accumulates."""
    page: str = ""
    """All of it as HTML, where something was measured."""
    remarks: Sequence[str] = ()
    """Sentences before those about files."""


def run(
    job: Job,
    *,
    format: str = "table",
    out: Path | None = None,
    paper: bool = False,
    measure: bool = False,
    export: str | None = None,
    dry_run: bool = False,
) -> Outcome:
    """Report what the store holds of a profile's chain.

    Args:
        job: Its profile describes the run; where it states no option, the newest run of its name will do.
        format: Table, md, csv, json or html.
        out: A name with an ending is the one file to write; any other is a folder, for ``report`` with the ending of
            the format and ``curve.png``. None prints; page and curve then go into ``_report`` in the store.
        paper: The paper's sizes and BOPS beside ours instead, of all official variants.
        measure: Time the float model on the device at hand too.
        export: With ``measure``, an exported graph to be timed beside its rivals, as the store names it.
        dry_run: Say what would be done.

    Returns:
        The command's outcome; for md, csv and json its document is all that belongs on stdout.

    Raises:
        ValueError: An unknown format, or nothing can be written at ``out``.
        StoreUnwritable: The disk is full, or the store cannot be written.
    """
    profile, store = job.stated, job.store
    if export is not None and not measure:
        raise ValueError("--export says which graph --measure times: give --measure too")
    places = find_places(out, format=format, store=store)
    if dry_run:
        return Outcome(would_do=_steps(profile, places=places, measure=measure, store=store))
    timed = _timed(profile, progress=job.progress) if measure else []
    timed += _timed_export(job, export=export) if export is not None else []
    described = None if paper else _verified_run(job.profile, store=store)
    if described is not None:
        report = _of_run(described, timed, profile=profile, places=places, format=format, store=store)
    else:
        report = _of_numbers(profile, timed, paper=paper, format=format, store=store)
    form = "text" if format == "table" else format
    document = report.page if form == "html" else render_all(report.tables, form=form)
    with explained(out, store=store):
        written = write(places, document=document, page=report.page, curve=report.curve, macs=report.macs)
    return Outcome(
        tables=report.tables,
        metrics=report.metrics,
        messages=[*report.remarks, *written],
        document=("" if places.document else document) if format in _DOCUMENTS else None,
    )


def _verified_run(profile: Profile, *, store: Store) -> Run | None:
    """The run that a profile describes, every byte of it and of what it stands on checked."""
    refuse_unreadable([f"{profile.name}-{profile.model.name}"], store=store)
    try:
        described = find_run(profile, store=store)
    except MissingArtifact:  # it may be there, and damaged
        refuse_unreadable([profile.model.name], store=store)
        raise
    if described is not None:
        stood_on = [artifact for link in described.links for artifact in (link.model, link.evaluation) if artifact]
        verify_standing(stood_on, store=store)
    return described


def _steps(profile: Profile, *, places: Places, measure: bool, store: Store) -> list[str]:
    """What would be done, a sentence a step."""
    reading = f"read the artifacts of {profile.name}-{profile.model.name} in {store.root}"
    timing = [f"time the float {profile.model.name}, part by part"] if measure else []
    return [reading, *timing, f"write {places.document}" if places.document else "print their tables"]


def _timed(profile: Profile, *, progress: bool) -> list[Table]:
    from pipelines.costs.latency import measured  # torch and mmdet3d take seconds to import

    return [measured(profile, progress=progress)]


def _timed_export(job: Job, *, export: str) -> list[Table]:
    from pipelines.assembly.detector import device_of
    from pipelines.costs.latency import device_name
    from pipelines.exporting.timing import timed_export

    artifact = job.store.open(export)
    job = job.of(as_made(artifact, profile=job.stated))
    return timed_export(job, export=artifact, device=device_name(device_of(job.profile)))


def _of_run(
    described: Run,
    timed: list[Table],
    *,
    profile: Profile,
    places: Places,
    format: str,
    store: Store,
) -> _Report:
    """The report on a run, float to distilled, and on all runs of its name."""
    links, intervals = described.links, described.intervals
    sensitivity = find_sensitivity(profile, end=links[-1], store=store)
    verify_standing([sensitivity] if sensitivity else [], store=store)
    accuracy = accuracy_tables(links, intervals=intervals) + runs_table(profile, shown=described, store=store)
    executed = executed_tables(links[-1], store=store)
    tables = [*accuracy, *executed, *cost_tables(links), *sensitivity_tables(sensitivity, chain=links), *timed]
    curve = curve_png(links, intervals=intervals) if places.curve and is_drawn(links) else None
    page = html_page(described, tables=tables, sensitivity=sensitivity) if places.page or format == "html" else ""
    remarks = [described.remark] if described.remark else []
    return _Report(tables, chain_metrics(links, intervals=intervals), curve=curve, page=page, remarks=remarks)


def _of_numbers(profile: Profile, timed: list[Table], *, paper: bool, format: str, store: Store) -> _Report:
    """The report on numbers alone: no data, no weights, no scores."""
    from pipelines.costs import counts

    names = command_words(profile)
    command = f"qdbev compress {names}{at_store(store.root)}"
    if format == "html":
        raise ValueError(
            f"a page shows what was measured, and nothing was: run `{command}` first, or choose --format md"
        )
    if paper:
        return _numbers([counts.paper_table(), *timed])
    cost = counts.count(profile)
    remark = f"{store.root} holds nothing measured of {names}; `{command}` makes it"
    tables = counts.cost_tables(cost, taken=counts.footprint(profile)) + timed
    return _numbers(tables, macs=counts.macs_png(cost), remarks=[remark])


def _numbers(tables: list[Table], *, macs: bytes | None = None, remarks: Sequence[str] = ()) -> _Report:
    return _Report(tables, {table.name: list(table.rows) for table in tables}, macs=macs, remarks=remarks)
