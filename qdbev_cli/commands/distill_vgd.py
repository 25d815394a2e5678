"""``qdbev distill-vgd``: view-guided distillation from the float detector."""

from __future__ import annotations

from typing import Annotated

import typer

from pipelines.reporting.outcome import Outcome
from qdbev_cli.options import Epochs, RunOptions, command

Control = Annotated[bool, typer.Option("--control", help="The same steps without a teacher.")]


@command()
def distill(options: RunOptions, *, control: Control = False, epochs: Epochs = None) -> Outcome:
    """Distil the float detector into the quantized one.

    View-guided distillation: image and BEV features, weighted by what each camera sees.

    Example: qdbev distill-vgd --profile w4a6 --set distillation.temperature=4
    """
    job = options.job(*options.trained_for(epochs))
    from pipelines.commands import distill_vgd

    return distill_vgd.run(job, control=control, dry_run=options.dry_run)
