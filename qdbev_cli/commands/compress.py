"""``qdbev compress``: the whole chain."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from pipelines.reporting.outcome import Outcome
from qdbev_cli.commands.qat_progressive import Stages
from qdbev_cli.options import RunOptions, command

Plan = Annotated[str | None, typer.Option(help="A bit plan of sensitivity --plan: folder name or digest.")]

Controls = Annotated[bool, typer.Option("--controls", help="Train float and QAT as long too, and compare.")]


@command()
def compress(options: RunOptions, *, stages: Stages = None, plan: Plan = None, controls: Controls = False) -> Outcome:
    """Run the whole chain, from float to distilled.

    Calibrate, train in stages, distil, evaluate. What is sealed already is skipped.

    Example: qdbev compress --profile w4a6 --stages 4
    """
    from pipelines.commands import compress

    job = options.job(
        None if stages is None else f"qat.stages={stages}",
        None if plan is None else f"quantization.plan={json.dumps(plan)}",
    )
    return compress.run(job, controls=controls, dry_run=options.dry_run)
