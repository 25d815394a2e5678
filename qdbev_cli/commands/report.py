"""``qdbev report``: size, operations and accuracy of everything in the store."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

from qdbev_cli.console import Result
from qdbev_cli.options import RunOptions, command


class Format(enum.StrEnum):
    """Formats of a report."""

    table = "table"
    md = "md"
    csv = "csv"
    json = "json"
    html = "html"


@command()
def report(
    options: RunOptions,
    *,
    format: Annotated[Format, typer.Option("--format", help="Format of the report.")] = Format.table,
    out: Annotated[Path | None, typer.Option(help="File or folder to write; stdout or the store otherwise.")] = None,
) -> Result:
    """Show size, BOPS and accuracy of what was made.

    Three tables, float to distilled, with the drops, and the training curve.

    Example: qdbev report --format html --out report.html
    """
    from pipelines import report

    return report.run(options.load_profile(), format=format.value, out=out, **options.how())
