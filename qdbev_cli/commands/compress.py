"""``qdbev compress``: the whole chain."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from pipelines.reporting.outcome import Outcome
from qdbev_cli import completion
from qdbev_cli.commands.qat_progressive import Stages
from qdbev_cli.options import Epochs, RunOptions, command

Plan = Annotated[
    str | None,
    typer.Option(help="A bit plan of sensitivity --plan: folder name or digest.", autocompletion=completion.artifacts),
]

OwnBits = Annotated[
    bool, typer.Option("--own-bits", help="Choose bits for every layer at the profile's size and work; train nothing.")
]

Controls = Annotated[bool, typer.Option("--controls", help="Train float and QAT as long too, and compare.")]


@command()
def compress(
    options: RunOptions,
    *,
    stages: Stages = None,
    epochs: Epochs = None,
    plan: Plan = None,
    own_bits: OwnBits = False,
    controls: Controls = False,
) -> Outcome:
    """Run the whole chain, from float to distilled.

    Calibrate, train in stages, distil, evaluate. What is sealed already is skipped. With --own-bits instead: measure
    what each layer loses, choose its bits, and put them on their grid part by part.

    Example: qdbev compress --profile w4a6 --stages 4
    """
    if own_bits and plan is not None:
        raise ValueError("--own-bits makes a plan, and --plan names one: give one of them")
    words = options.trained_for(
        epochs,
        None if stages is None else f"qat.stages={stages}",
        None if plan is None else f"quantization.plan={json.dumps(plan)}",
    )
    job = options.job(*words)
    from pipelines.commands import compress

    return compress.run(job, controls=controls, own_bits=own_bits, dry_run=options.dry_run)
