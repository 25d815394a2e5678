"""``qdbev doctor``: is everything there that the commands need?"""

from __future__ import annotations

from pipelines.reporting.outcome import Outcome
from qdbev_cli.options import OutputOptions, command


@command()
def check(options: OutputOptions) -> Outcome:
    """Check the installation, data and weights; say what to do.

    Python, torch, CUDA, mmcv's ops, the devkit, the data cache and the shipped weights.

    Example: qdbev doctor

    Exit code 3 if something that is needed is missing.
    """
    from pipelines.commands import doctor

    return doctor.run()
