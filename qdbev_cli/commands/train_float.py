"""``qdbev train-float``: the float weights."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from pipelines.reporting.outcome import Outcome
from qdbev_cli.options import RunOptions, command

Continue = Annotated[bool, typer.Option("--continue", help="Train on as long as QAT does: its float control.")]


@command(profile="float")
def train(options: RunOptions, *, further: Continue = False) -> Outcome:
    """Train the float weights.

    Killed at any moment, the same command goes on where it was.

    Nano's weights are shipped: this is how they were made, and how one's own variant is trained.

    Example: qdbev train-float --model nano
    """
    if further and options.profile == "float":  # float has no QAT to be the control of
        options = dataclasses.replace(options, profile="w4a6")
    job = options.job()
    from pipelines.commands import train_float

    return train_float.run(job, further=further, dry_run=options.dry_run)
