"""``qdbev qat-progressive``: quantization-aware training, one part after the other."""

from __future__ import annotations

from typing import Annotated

import typer

from pipelines.reporting.outcome import Outcome
from qdbev_cli.options import Epochs, RunOptions, command

Stages = Annotated[int | None, typer.Option(min=1, max=4, help="Stages; 1 quantizes all parts at once (standard QAT).")]


@command()
def train(options: RunOptions, *, stages: Stages = None, epochs: Epochs = None) -> Outcome:
    """Train with quantizers in place, part after part.

    Each stage starts from the last. Killed at any moment, the same command goes on where it was.

    Example: qdbev qat-progressive --profile w4a6 --stages 4
    """
    job = options.job(*options.trained_for(epochs, None if stages is None else f"qat.stages={stages}"))
    from pipelines.commands import qat_progressive

    return qat_progressive.run(job, dry_run=options.dry_run)
