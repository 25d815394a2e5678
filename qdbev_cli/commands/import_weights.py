"""``qdbev import-weights``: the float weights of a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipelines.reporting.outcome import Outcome
from qdbev_cli.options import MakeOptions, command


@command(profile="float")
def import_weights(
    options: MakeOptions,
    file: Annotated[Path, typer.Argument(help="A file of torch.save (mmcv, mmengine, Lightning, ...) or safetensors.")],
) -> Outcome:
    """Take float weights from a checkpoint file.

    The official BEVFormer files go in as they are published (--model tiny, small or base), and so do fp16 copies and
    exports of mmdet3d 1.x. The file is read as data: one that would run code is refused, and nothing of it runs.

    Every tensor of the model must be there with its shape, and no other. What is missing, unknown or of another
    shape is counted and named, with --json in full. --dry-run compares and seals nothing.

    Afterwards --model tiny (small, base) means these weights, in every command with the same --store.

    Example: qdbev import-weights bevformer_tiny_epoch_24.pth --model tiny
    """
    job = options.job()
    from pipelines.commands import import_weights

    return import_weights.run(job, file=file, dry_run=options.dry_run)
