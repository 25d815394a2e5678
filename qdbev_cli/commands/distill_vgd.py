"""``qdbev distill-vgd``: view-guided distillation from the float detector."""

from __future__ import annotations

from qdbev_cli.console import Result
from qdbev_cli.options import RunOptions, command


@command()
def distill(options: RunOptions) -> Result:
    """Distil the float detector into the quantized one.

    View-guided distillation: image and BEV features, weighted by what each camera sees.

    Example: qdbev distill-vgd --profile w4a6 --set distillation.temperature=4
    """
    from pipelines import distill_vgd

    return distill_vgd.run(options.load_profile(), **options.how())
