"""Smoothing a float detector before it is quantized (SmoothQuant), and the record of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipelines.assembly.detector import Detector
from qdbev.quantization import CheckedRun, Smoothing, smooth

RECORD = "smoothing.json"


@dataclass(frozen=True)
class Smoothed:
    """What was smoothed, and why anything was not."""

    smoothing: Smoothing

    def sentence(self) -> str:
        """How many."""
        done = self.smoothing
        return f"smoothed {len(done.scales)} of {len(done.scales) + len(done.refused)} layer norms"

    def write(self, folder: Path) -> None:
        """Write ``smoothing.json``: of each norm the smallest and the largest of what its channels were divided by."""
        smoothed = [
            {"norm": pair.first, "layers": list(pair.seconds), "least": float(one.min()), "most": float(one.max())}
            for pair, one in self.smoothing.scales.items()
        ]
        document = {"smoothed": smoothed, "not_smoothed": self.smoothing.refused}
        (folder / RECORD).write_text(json.dumps(document, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def smoothed(detector: Detector, *, example: CheckedRun, run: Callable[[], object], alpha: float) -> Smoothed:
    """Smooth the LayerNorms that linear layers alone read; in place.

    Args:
        detector: A float detector.
        example: Is run to find which layer reads which norm, and compares its outputs when it is run next.
        run: Runs the calibration samples.
        alpha: How much moves into the weights, 0 to 1.
    """
    smoothing = smooth(detector.eval(), example_call=example, run=run, alpha=alpha)
    example.rewritten("smoothing", changed=smoothing.changed)
    return Smoothed(smoothing)
