"""Rounding a detector's weights so that layers' outputs change least (GPTQ): in calibration, or as a stage begins."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from qdbev.quantization import Compensation, compensate_rounding

RECORD = "gptq.json"


@dataclass(frozen=True)
class Rounded:
    """What was rounded with compensation, and why anything was not."""

    compensation: Compensation

    def sentence(self) -> str:
        """How many, and what it changed in the middle one."""
        nearest, now = (sorted(errors)[len(errors) // 2] for errors in zip(*self._errors(), strict=True))
        return (
            f"rounded {len(self._errors())} weights so that outputs change least: a median of {now:.2%} of an output's "
            f"variance, {nearest:.2%} by nearest rounding"
        )

    def write(self, folder: Path) -> None:
        """Write ``gptq.json``."""
        rounded = [
            {**block._asdict(), "nearest": nearest, "compensated": now}
            for block, (nearest, now) in self.compensation.errors.items()
        ]
        document = {"rounded": rounded, "not_rounded": self.compensation.refused}
        (folder / RECORD).write_text(json.dumps(document, indent=1, sort_keys=True) + "\n", encoding="utf-8")

    def _errors(self) -> list[tuple[float, float]]:
        return list(self.compensation.errors.values())


def compensate(detector: nn.Module, *, run: Callable[[], object], parts: Sequence[str]) -> Rounded:
    """Put the weights of some parts on their grid so that the layers' outputs in a run change least; in place.

    Args:
        detector: Quantized, with ranges; its other parts run as they are switched, and afterwards these are off.
        run: Runs the calibration samples.
        parts: Round the weights of these.

    Raises:
        ValueError: Weight ranges that follow the weights, which would move under the rounded ones.
    """
    return Rounded(compensate_rounding(detector, run, parts))
