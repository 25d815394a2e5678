"""What an artifact keeps of its training: the curve as JSON, and the same as a table for other programs."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipelines.lineage.kinds import CURVE, LOSSES
from qdbev.engine import TrainResult

_FIRST = ("training", "step", "learning_rate", "loss")


def write_records(folder: Path, *, result: TrainResult, training: str) -> None:
    """Write the curve, twice; without times, so equal runs give equal bytes.

    Args:
        folder: Of the artifact in the making.
        result: Of the engine.
        training: Which training it was, such as ``qat stage 2/4 (+neck)``.
    """
    (folder / CURVE).write_text(json.dumps(result.curve, indent=0, sort_keys=True) + "\n", encoding="utf-8")
    (folder / LOSSES).write_text(losses_csv(result.curve, training=training), encoding="utf-8", newline="")


def losses_csv(curve: Sequence[Mapping[str, float]], *, training: str) -> str:
    r"""Rows of a curve as CSV; what a row lacks is empty.

    >>> losses_csv([{"step": 10, "learning_rate": 0.1, "loss": 2.5}], training="vgd")
    'training,step,learning_rate,loss\nvgd,10,0.1,2.5\n'
    """
    names = {name for row in curve for name in row}
    columns = [*_FIRST, *sorted(names - set(_FIRST))]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({"training": training, **row} for row in curve)
    return text.getvalue()
