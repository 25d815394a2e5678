"""report: tables of size, bit operations and accuracy, and the training curve, from sealed artifacts alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pipelines.chain import Link, chain_of
from pipelines.outcome import dry, finished
from pipelines.store import Artifact, MissingArtifact, Store
from pipelines.training_curve import curve_png
from profiles import Profile
from qdbev.reporting.costs import bops_table, size_table
from qdbev.reporting.results import accuracy_table, sensitivity_table
from qdbev.reporting.tables import Table, render_all

COMPRESSION = "compression"
_ENDS = ("vgd", "qat", "calibration")
_FORMS: dict[str, Literal["text", "md", "csv", "json"]] = {"table": "text", "md": "md", "csv": "csv", "json": "json"}
_MEGABYTE = 2**20


def run(
    profile: Profile,
    *,
    store: Store,
    format: str = "table",
    out: Path | None = None,
    force: bool = False,
    dry_run: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Print what the store holds of a profile's chain.

    Args:
        profile: Its name and its model's name choose the chain.
        store: Holds it.
        format: table, md, csv, json or html.
        out: The page's file, or a folder for ``report.html`` and ``curve.png``; None takes ``_report`` in the store.
        force: Not used: nothing is sealed.
        dry_run: Say what would be done.
        progress: Not used: it takes a moment.

    Raises:
        MissingArtifact: The store holds nothing of this profile.
    """
    if dry_run:
        return dry(
            [f"read the artifacts of {profile.name}-{profile.model.name} in {store.root} and print their tables"]
        )
    links, intervals = find_chain(profile, store=store)
    tables = chain_tables(links, intervals=intervals) + sensitivity_tables(profile, store=store)
    folder = out or store.root / "_report"
    page = folder if folder.suffix == ".html" else folder / "report.html"
    folder = page.parent
    folder.mkdir(parents=True, exist_ok=True)
    made = [_write_curve(links, folder=folder)] if any(link.model.manifest.kind == "qat" for link in links) else []
    if format == "html":
        from pipelines.report_page import write_page

        made.append(write_page(links, tables=tables, path=page, profile=profile, store=store))
    outcome = finished(None, metrics=chain_metrics(links, intervals=intervals), messages=[str(path) for path in made])
    return outcome | {"text": render_all(tables, form=_FORMS.get(format, "text"))}


def find_chain(profile: Profile, *, store: Store) -> tuple[list[Link], dict[str, dict[str, float]]]:
    """The newest chain of a profile, and the intervals of its last compression by link name.

    Raises:
        MissingArtifact: There is none.
    """
    names = {"profile": profile.name, "model": profile.model.name}
    if compression := store.last(COMPRESSION, **names):
        digests = compression.manifest.parents
        last = _by_digest(store, digest=digests["model"])
        intervals: Any = compression.manifest.metrics.get("intervals", {})
        return chain_of(last, store=store), intervals
    for kind in _ENDS:
        if found := store.last(kind, **names):
            return chain_of(found, store=store), {}
    raise MissingArtifact(
        f"{store.root} holds nothing of profile {profile.name}, model {profile.model.name}: "
        f"run `qdbev compress --profile {profile.name} --model {profile.model.name}` first"
    )


def chain_tables(links: Sequence[Link], *, intervals: dict[str, dict[str, float]]) -> list[Table]:
    """Size, bit operations and accuracy; a table is left out while nothing for it is known."""
    tables = []
    sized = [link for link in links if "size_nominal_mb" in link.cost and link.size_bytes is not None]
    if sized and sized[0] is links[0]:
        tables.append(size_table([_size_row(link) for link in sized], reference=links[0].name))
        tables.append(bops_table([row for link in sized for row in _bops_rows(link)], reference=links[0].name))
    scored = [link for link in links if link.evaluation is not None]
    if scored and scored[0] is links[0]:
        rows = [{"name": link.name, "bits": link.bits, **link.scores, **_interval(link, intervals)} for link in scored]
        tables.append(accuracy_table(rows, reference=links[0].name))
    return tables


def sensitivity_tables(profile: Profile, *, store: Store) -> list[Table]:
    """The newest sensitivity table of the profile, if it was measured."""
    measured = store.last("sensitivity", profile=profile.name, model=profile.model.name)
    if measured is None:
        return []
    rows: Any = measured.manifest.metrics["rows"]
    return [sensitivity_table(rows, reference="float")]


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


def _write_curve(links: Sequence[Link], *, folder: Path) -> Path:
    path = folder / "curve.png"
    path.write_bytes(curve_png(links))
    return path


def _size_row(link: Link) -> dict[str, Any]:
    nominal = float(link.cost["size_nominal_mb"]) * _MEGABYTE
    return {"name": link.name, "bits": link.bits, "nominal_bytes": nominal, "artifact_bytes": link.size_bytes}


def _bops_rows(link: Link) -> list[dict[str, Any]]:
    parts = link.cost["gbops"]
    return [
        {"name": link.name, "bits": link.bits, "part": part, "bops": value * 1e9}
        for part, value in parts.items()
        if part != "total"
    ]


def _interval(link: Link, intervals: dict[str, dict[str, float]]) -> dict[str, float]:
    found = intervals.get(link.name)
    return {"NDS_low": found["low"], "NDS_high": found["high"]} if found else {}


def _by_digest(store: Store, *, digest: str) -> Artifact:
    return store.open(digest)
