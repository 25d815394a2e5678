"""``qdbev calibrate``: ranges for the quantizers."""

from __future__ import annotations

from typing import Annotated

import typer

from pipelines.reporting.outcome import Outcome
from profiles.sections.calibration import CalibrationMethod
from qdbev_cli.options import RunOptions, command


@command()
def calibrate(
    options: RunOptions,
    *,
    method: Annotated[
        CalibrationMethod | None,
        typer.Option(help="ptq sets ranges; the others change or round weights too."),
    ] = None,
) -> Outcome:
    """Set the quantizers' ranges on training samples (PTQ).

    Post-training quantization: the artifact holds the ranges; samples that are scored later are refused.

    Example: qdbev calibrate --profile w8a8 --set calibration.samples=64
    """
    job = options.job(None if method is None else f"calibration.method={method}")
    from pipelines.commands import calibrate

    return calibrate.run(job, dry_run=options.dry_run)
