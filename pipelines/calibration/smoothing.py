"""Smoothing a float detector before it is quantized (SmoothQuant), and the record of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pipelines.assembly.detector import Detector
from pipelines.assembly.quantized import example_call
from pipelines.assembly.samples import Split
from profiles import Profile
from qdbev.quantization import Smoothing, smooth

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


def smoothed(
    detector: Detector, *, profile: Profile, split: Split, run: Callable[[], object], alpha: float
) -> Smoothed:
    """Smooth the LayerNorms that linear layers alone read; in place.

    Args:
        detector: A float detector.
        profile: Its model section.
        split: Two frames of it are run to find which layer reads which norm.
        run: Runs the calibration samples.
        alpha: How much moves into the weights, 0 to 1.
    """
    call = partial(example_call, detector, profile=profile, split=split)
    return Smoothed(smooth(detector.eval(), example_call=call, run=run, alpha=alpha))
