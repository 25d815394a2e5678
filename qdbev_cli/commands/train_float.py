"""``qdbev train-float``: the float weights."""

from __future__ import annotations

from qdbev_cli.console import Result
from qdbev_cli.options import RunOptions, command


@command(profile="float")
def train(options: RunOptions) -> Result:
    """Train the float weights.

    Killed at any moment, the same command goes on where it was.

    Nano's weights are shipped: this is how they were made, and how one's own variant is trained.

    Example: qdbev train-float --model nano
    """
    from pipelines import train_float

    return train_float.run(options.load_profile(), **options.how())
