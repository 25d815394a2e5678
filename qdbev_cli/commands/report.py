"""``qdbev report``: size, operations and accuracy of everything in the store."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

from pipelines.reporting.outcome import Outcome
from qdbev_cli.options import ReadOptions, command


class Format(enum.StrEnum):
    """Formats of a report."""

    table = "table"
    md = "md"
    csv = "csv"
    json = "json"
    html = "html"


@command()
def report(
    options: ReadOptions,
    *,
    format: Annotated[
        Format | None,
        typer.Option("--format", help="Format of the report.", show_default="as --out ends, otherwise table"),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="File to write, or folder if the name has no ending.",
            show_default="stdout; a page goes into the store",
        ),
    ] = None,
    paper: Annotated[bool, typer.Option("--paper", help="The paper's sizes and BOPS beside ours.")] = False,
    measure: Annotated[bool, typer.Option("--measure", help="Time the float model on this device too.")] = False,
    export: Annotated[
        str | None,
        typer.Option(
            metavar="ARTIFACT", help="With --measure: time this exported graph beside its rivals.", show_default=False
        ),
    ] = None,
) -> Outcome:
    """Show size, BOPS and accuracy of what was made.

    Tables, float to distilled, with the drops, and a page with the training curve. Where nothing was made yet, size
    and operations by the model's numbers. With md, csv and json stdout holds the document alone.

    Example: qdbev report --format html --out report.html
    """
    wanted = format or _format_of(out)
    if options.as_json and wanted in (Format.md, Format.csv) and out is None:
        raise ValueError(f"--json and --format {wanted} both want stdout; add --out FILE")
    job = options.job()
    from pipelines.commands import report

    return report.run(
        job, format=wanted.value, out=out, paper=paper, measure=measure, export=export, dry_run=options.dry_run
    )


def _format_of(out: Path | None) -> Format:
    """The format that a file's ending names; otherwise tables to read."""
    return Format.__members__.get(out.suffix[1:].lower(), Format.table) if out else Format.table
