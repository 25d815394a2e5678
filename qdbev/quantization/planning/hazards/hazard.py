"""What quantizes badly: a hazard with its code, place, measured range and remedy, and the thresholds of all rules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Code = Literal["inverse-sigmoid", "reciprocal", "coordinates", "shared-range", "masked-fill", "narrow"]

NARROW = 16  # NVIDIA's Model-Optimizer quantizes no MatMul or Gemm of which a side is narrower: it would be slower
FILL = 1e4  # no feature of a trained network is as large; masks are 1e4 (half precision ends at 65504), 1e9 or inf
DIVISOR_SPREAD = 1e4  # largest to smallest divisor: thirteen bits; those of sine positions are below
QUOTIENT_SPREAD = 1e3  # largest quotient to that of the largest numbers: what is far has less than a step of 8 bits
SHARED_SPREAD = 8.0  # the smaller operand loses three bits
PLACE_STEP_PX = 0.125  # half of it moves a bilinear sample by a sixteenth of the difference of two pixels
FRACTION_STEP = 0.002  # of the detection range: 0.2 m of 102.4 m

REMEDIES: dict[Code, str] = {
    "inverse-sigmoid": "compute it in float",
    "reciprocal": "compute it in float, the divisor further from 0",
    "coordinates": "leave the layer and its coordinates in float",
    "shared-range": "more bits or float for this layer",
    "masked-fill": "fill with a value near the others, or in float",
    "narrow": "leave the layer in float",
}
"""Code -> what to do."""


@dataclass(frozen=True)
class Hazard:
    """One operation that quantizes badly."""

    code: Code
    """Which kind."""
    layer: str
    """Path of the layer, or of the innermost module whose call runs the operation; empty for the model itself."""
    operation: str
    """What it computes, and what is bad about it."""
    low: float
    """Least number that was measured: of the operation's result, of a layer's input, or of coordinates [px]."""
    high: float
    """Largest number that was measured."""

    @property
    def remedy(self) -> str:
        """What to do."""
        return REMEDIES[self.code]


def hazard_counts(hazards: Iterable[Hazard]) -> dict[Code, int]:
    """Number of hazards of each code, in the order of ``REMEDIES``."""
    counts = Counter(hazard.code for hazard in hazards)
    return {code: counts[code] for code in REMEDIES if counts[code]}
