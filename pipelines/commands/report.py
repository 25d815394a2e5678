"""report: tables of size, bit operations and accuracy, and the training curve, from sealed artifacts alone.

Where there are none, what the model costs by its numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipelines.lineage.bit_plan import bits_label
from pipelines.lineage.chain import Link, chain_of, controls_of, sealed_chain
from pipelines.reporting.files import Places, explained, find_places, write
from pipelines.reporting.outcome import dry, finished
from pipelines.reporting.training_curve import curve_png
from pipelines.store.artifacts import Artifact, Store
from profiles import Profile
from profiles.sections.schedule import PARTS
from qdbev.reporting.tables.costs import bops_table, size_table
from qdbev.reporting.tables.results import accuracy_table, comparison_table, sensitivity_table
from qdbev.reporting.tables.table import Table, render_all

COMPRESSION = "compression"
_ENDS = ("vgd", "qat", "calibration")
_DOCUMENTS = ("md", "csv", "json")
_MEGABYTE = 2**20


def run(
    profile: Profile,
    *,
    store: Store,
    format: str = "table",
    out: Path | None = None,
    paper: bool = False,
    measure: bool = False,
    force: bool = False,
    dry_run: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Print what the store holds of a profile's chain, or write it.

    Args:
        profile: Its name and its model's name choose the chain.
        store: Holds it.
        format: Table, md, csv, json or html.
        out: A name with an ending is the one file to write; any other is a folder, for ``report`` with the ending of
            the format and ``curve.png``. None prints; the page and the curve then go into ``_report`` in the store.
        paper: The paper's sizes and BOPS beside ours instead, of all official variants.
        measure: Time the float model on the device at hand too.
        force: Not used: nothing is sealed.
        dry_run: Say what would be done.
        progress: Show a bar while it measures.

    Returns:
        The outcome, with ``text`` (tables to read) or, for md, csv and json, ``document``: all that belongs on stdout,
        empty where it was written to ``out``.

    Raises:
        ValueError: An unknown format, or nothing can be written at ``out``.
        StoreUnwritable: The disk is full, or the store cannot be written.
    """
    places = find_places(out, format=format, store=store)
    if dry_run:
        reading = f"read the artifacts of {profile.name}-{profile.model.name} in {store.root}"
        timing = [f"time the float {profile.model.name}, part by part"] if measure else []
        return dry([reading, *timing, f"write {places.document}" if places.document else "print their tables"])
    timed = _timed(profile, progress=progress) if measure else []
    if paper or (chain := find_chain(profile, store=store)) is None:
        return _without_chain(profile, timed, paper=paper, places=places, format=format, out=out, store=store)
    links, intervals = chain
    measured = find_sensitivity(profile, bits=links[-1].bits, store=store)
    tables = chain_tables(links, intervals=intervals) + sensitivity_tables(measured) + timed
    curve = curve_png(links) if is_drawn(links) and (places.curve or format == "html") else None
    if format == "html":
        from pipelines.reporting.page import html_page

        document = html_page(links, tables=tables, model=profile.model.name, curve=curve, sensitivity=measured)
    else:
        document = render_all(tables, form="text" if format == "table" else format)
    with explained(out, store=store):
        made = write(places, document=document, curve=curve)
    outcome = finished(None, metrics=chain_metrics(links, intervals=intervals), messages=made)
    if format in _DOCUMENTS:
        return outcome | {"document": "" if places.document else document}
    return outcome | {"text": render_all(tables, form="text")}


def _timed(profile: Profile, *, progress: bool) -> list[Table]:
    from pipelines.costs.latency import measured  # torch and mmdet3d take seconds to import

    return [measured(profile, progress=progress)]


def _without_chain(
    profile: Profile,
    timed: list[Table],
    *,
    paper: bool,
    places: Places,
    format: str,
    out: Path | None,
    store: Store,
) -> dict[str, Any]:
    """The report on numbers alone: no data, no weights, no scores."""
    from pipelines.costs.counts import cost_tables, count, footprint, macs_png, paper_table

    if format == "html":
        raise ValueError(
            "a page shows what was measured, and nothing was: run `qdbev compress "
            f"--profile {profile.name} --model {profile.model.name}` first, or choose --format md"
        )
    tables, picture = [paper_table(), *timed], None
    if not paper:
        cost = count(profile)
        tables, picture = cost_tables(cost, taken=footprint(profile)) + timed, macs_png(cost)
    document = render_all(tables, form="text" if format == "table" else format)
    with explained(out, store=store):
        made = write(places, document=document, macs=picture)
    if not paper:
        names = f"--profile {profile.name} --model {profile.model.name}"
        made = [f"{store.root} holds nothing measured of {names}; `qdbev compress {names}` makes it", *made]
    outcome = finished(None, metrics={table.name: list(table.rows) for table in tables}, messages=made)
    if format in _DOCUMENTS:
        return outcome | {"document": "" if places.document else document}
    return outcome | {"text": render_all(tables, form="text")}


def find_chain(profile: Profile, *, store: Store) -> tuple[list[Link], dict[str, dict[str, float]]] | None:
    """The newest chain of a profile, and the intervals of its last compression by link name; None where none is."""
    names = {"profile": profile.name, "model": profile.model.name}
    if compression := store.last(COMPRESSION, **names):
        intervals: Any = compression.manifest.metrics.get("intervals", {})
        return sealed_chain(compression, store=store), intervals
    for kind in _ENDS:
        if found := store.last(kind, **names):
            return chain_of(found, store=store, controls=controls_of(found, store=store)), {}
    return None


def chain_tables(links: Sequence[Link], *, intervals: dict[str, dict[str, float]]) -> list[Table]:
    """Size, bit operations and accuracy; a table is left out while nothing for it is known."""
    tables = []
    sized = [link for link in links if link.size_bytes is not None and "size_nominal_mb" in link.cost]
    sized = [link for link in sized if not link.control]
    if sized and sized[0] is links[0]:
        tables.append(size_table([_size_row(link) for link in sized], reference=links[0].name))
        tables.append(bops_table([row for link in sized for row in _bops_rows(link)], reference=links[0].name))
    scored = [link for link in links if link.evaluation is not None]
    if scored and scored[0] is links[0]:
        rows = [{"name": link.name, "bits": link.bits, **link.scores, **_interval(link, intervals)} for link in scored]
        tables.append(accuracy_table(rows, reference=links[0].name))
        tables += _comparisons(scored, intervals=intervals)
    return tables


def _comparisons(scored: Sequence[Link], *, intervals: dict[str, dict[str, float]]) -> list[Table]:
    """The end of the chain against each control; without any, nothing."""
    *_, end = scored
    rows = []
    for control in scored:
        if control.control:
            found = intervals.get(against(end.name, control.name), {})
            ends = {"NDS_low": found["low"], "NDS_high": found["high"]} if found else {}
            change = float(str(end.scores["NDS"])) - float(str(control.scores["NDS"]))
            rows.append({"name": end.name, "than": control.name, "NDS_change": change, **ends})
    return [comparison_table(rows, title="Against controls")] if rows else []


def against(name: str, control: str) -> str:
    """What the interval of a difference to a control is called in a compression artifact."""
    return f"{name} - {control}"


def find_sensitivity(profile: Profile, *, bits: str, store: Store) -> Artifact | None:
    """The newest sensitivity of the profile's name with these bits; of other bits if there is none; None without any.

    ``sensitivity --bits`` changes the bits and leaves the profile's name.
    """
    names = {"profile": profile.name, "model": profile.model.name}
    newest = store.last("sensitivity", **names)
    if newest is None or bits_label(newest) == bits:
        return newest
    named = ("sensitivity", newest.manifest.name)
    measured = [one for one in store.list() if (one.manifest.kind, one.manifest.name) == named]
    alike = [one for one in measured if bits_label(one) == bits]
    return store.verify(alike[-1]) if alike else newest


def sensitivity_tables(measured: Artifact | None) -> list[Table]:
    """The table of a sensitivity, with its bits and level in the title and, for CSV, in every row."""
    if measured is None:
        return []
    bits, level = bits_label(measured), measured.manifest.data.get("level", "part")
    scored: Any = measured.manifest.metrics["rows"]
    rows = [{**row, "bits": "W32A32" if row["name"] == "float" else bits, "level": level} for row in scored]
    return [sensitivity_table(rows, reference="float", title=f"Sensitivity, {bits}, each {level} alone")]


def chain_metrics(links: Sequence[Link], *, intervals: dict[str, dict[str, float]]) -> dict[str, Any]:
    """The same numbers by model name, for ``--json``."""
    return {
        link.name: {
            "bits": link.bits,
            "artifact": link.model.digest,
            "file_bytes": link.size_bytes,
            **{name: link.cost[name] for name in ("size_nominal_mb", "gbops") if name in link.cost},
            **link.scores,
            **_interval(link, intervals),
        }
        for link in links
    }


def is_drawn(links: Sequence[Link]) -> bool:
    """Whether there is a training curve with a score in it; stages of no steps have none."""
    models = [link.model.manifest for link in links if link.scores]
    return any(model.kind in ("qat", "vgd") and model.metrics.get("steps") != 0 for model in models)


def _size_row(link: Link) -> dict[str, Any]:
    nominal = float(link.cost["size_nominal_mb"]) * _MEGABYTE
    return {"name": link.name, "bits": link.bits, "nominal_bytes": nominal, "artifact_bytes": link.size_bytes}


def _bops_rows(link: Link) -> list[dict[str, Any]]:
    parts = link.cost["gbops"]
    return [
        {"name": link.name, "bits": link.bits, "part": part, "bops": parts[part] * 1e9}
        for part in sorted(parts.keys() - {"total"}, key=PARTS.index)
    ]


def _interval(link: Link, intervals: dict[str, dict[str, float]]) -> dict[str, float]:
    found = intervals.get(link.name)
    return {"NDS_low": found["low"], "NDS_high": found["high"]} if found else {}
