"""``qdbev export``: a quantized detector as files that other programs read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipelines.reporting.outcome import Outcome
from profiles.sections.bit_plan import Target
from qdbev_cli.options import MakeOptions, NewestArtifact, command

app = typer.Typer(no_args_is_help=True, help="Write a quantized detector as files that other programs read.")


@app.command("packed")
@command()
def packed(
    options: MakeOptions,
    artifact: NewestArtifact = None,
    *,
    out: Annotated[Path | None, typer.Option(help="Folder for a copy of the files.", show_default=False)] = None,
    check: Annotated[
        Path | None, typer.Option(help="Write nothing; compare this folder with the artifact.", show_default=False)
    ] = None,
    base_model: Annotated[
        str | None,
        typer.Option(help="What hubs call the float model, for the card.", show_default="the model's name"),
    ] = None,
) -> Outcome:
    """Pack weights into real 2- to 8-bit integers, with a card.

    Writes model.safetensors, config.json that says how to read it, and README.md as model hubs expect it. The files
    are read back and compared with the artifact, every tensor, bit for bit, before they are sealed. So their scores
    are those of the artifact, and qdbev evaluate takes them too.

    Example: qdbev export packed qat:w4a6-nano --out nano-w4a6
    """
    job = options.job(reading=artifact)
    from pipelines.commands import export

    return export.packed(job, artifact=artifact, out=out, check=check, base_model=base_model, dry_run=options.dry_run)


@app.command("onnx")
@command()
def onnx(
    options: MakeOptions,
    artifact: NewestArtifact = None,
    *,
    target: Annotated[Target, typer.Option(help="Who runs the graph.")] = "ort",
    explain: Annotated[
        bool, typer.Option("--explain", help="Write nothing; say what the target makes of each layer, by its rules.")
    ] = False,
    strip_metadata: Annotated[bool, typer.Option("--strip-metadata", help="Write no metadata_props.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder for a copy of the files.", show_default=False)] = None,
) -> Outcome:
    """Write one frame as an ONNX graph of integers, history in and out, and run it.

    The graph is sealed only if a runtime computes with it what the detector computes: every input of every layer is
    compared, in steps of its quantizer. TensorRT and QNN get the detector at their own bits, and every documented rule
    of theirs is checked. Where something fails, the command ends with exit code 3 and leaves the report.

    Example: qdbev export onnx qat:w4a6-nano --target ort
    """
    job = options.job(reading=artifact)
    from pipelines.commands import export

    return export.onnx(
        job,
        artifact=artifact,
        target=target,
        strip_metadata=strip_metadata,
        explain=explain,
        out=out,
        dry_run=options.dry_run,
    )
