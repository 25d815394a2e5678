"""``qdbev export``: a quantized detector as files that other programs read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipelines.reporting.outcome import Outcome
from qdbev_cli import completion
from qdbev_cli.options import MakeOptions, command

app = typer.Typer(no_args_is_help=True, help="Write a quantized detector as files that other programs read.")


@app.command("packed")
@command()
def packed(
    options: MakeOptions,
    artifact: Annotated[
        str | None,
        typer.Argument(
            help="Path, folder name, start of a digest, or kind:name; the newest where not given.",
            autocompletion=completion.artifacts,
        ),
    ] = None,
    *,
    out: Annotated[Path | None, typer.Option(help="Folder for a copy of the files.", show_default=False)] = None,
) -> Outcome:
    """Pack weights into real 2- to 8-bit integers, in safetensors with a config.json.

    What was written is read back and compared with the artifact, every tensor, bit for bit, before it is sealed. So
    its scores are those of the artifact, and qdbev evaluate takes it too.

    Example: qdbev export packed qat:w4a6-nano --out nano-w4a6
    """
    job = options.job()
    from pipelines.commands import export

    return export.packed(job, artifact=artifact, out=out, dry_run=options.dry_run)
