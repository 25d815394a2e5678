"""``qdbev lint``: operations that quantize badly."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from pipelines.reporting.outcome import Outcome
from qdbev_cli import completion
from qdbev_cli.options import ReadOptions, command


@command()
def lint(
    options: ReadOptions,
    detector: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL]", help="The same as --model.", show_default=False, autocompletion=completion.model_names
        ),
    ] = None,
) -> Outcome:
    """Find operations that quantize badly.

    Runs two frames in float and looks at what is computed: inverse sigmoids, divisions by depth, coordinates through
    few bits, one range for unlike operands, masked fills, narrow projections. Each with its layer, the measured
    range and a remedy. Nothing is sealed.

    Example: qdbev lint nano --profile w4a6
    """
    if detector is not None and options.model is not None:
        raise ValueError(f"the model is named twice, {detector} and --model {options.model}: name it once")
    job = dataclasses.replace(options, model=detector or options.model).job()
    from pipelines.commands import lint

    return lint.run(job, dry_run=options.dry_run)
