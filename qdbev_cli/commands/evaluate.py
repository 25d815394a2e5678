"""``qdbev evaluate``: nuScenes scores of an artifact."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from pipelines.reporting.outcome import Outcome
from qdbev_cli.options import NewestArtifact, RunOptions, command


@command()
def evaluate(
    options: RunOptions,
    artifact: NewestArtifact = None,
    *,
    official: Annotated[
        bool, typer.Option("--official", help="Score by nuscenes-devkit itself, too, and compare (slow).")
    ] = False,
    runtime: Annotated[
        Literal["ort", "openvino"] | None,
        typer.Option(help="What runs an exported graph.", show_default="the one that it was exported for"),
    ] = None,
) -> Outcome:
    """Score a detector: NDS, mAP, errors, classes.

    The submission is written and scored by nuScenes' rules: NDS, mAP, five true-positive errors, a class table.

    Example: qdbev evaluate qat:w4a6-nano
    """
    job = options.job(reading=artifact)
    from pipelines.commands import evaluate

    return evaluate.run(job, artifact=artifact, official=official, runtime=runtime, dry_run=options.dry_run)
