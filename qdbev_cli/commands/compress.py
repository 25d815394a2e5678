"""``qdbev compress``: the whole chain."""

from __future__ import annotations

from qdbev_cli.console import Result
from qdbev_cli.options import RunOptions, command

from .qat_progressive import Stages


@command()
def compress(options: RunOptions, *, stages: Stages = None) -> Result:
    """Run the whole chain, from float to distilled.

    Calibrate, train in stages, distil, evaluate. What is sealed already is skipped.

    Example: qdbev compress --profile w4a6 --stages 4
    """
    from pipelines import compress

    profile = options.load_profile(None if stages is None else f"qat.stages={stages}")
    return compress.run(profile, stages=profile.qat.stages, **options.how())
