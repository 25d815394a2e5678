"""Data-free quantization of a float detector (DFQ, Nagel et al., ICCV 2019), in its order around the calibration.

Before quantizers are put in place: batch norms folded, ranges equalised, biases absorbed. Once ranges are set, so that
they are those of the float model: biases corrected for the error of the quantized weights.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor
from tqdm import tqdm

from pipelines.assembly.detector import Detector
from pipelines.assembly.quantized import Bits, Quantized, with_quantizers
from profiles import Profile
from profiles.wording import counted
from qdbev.quantization import (
    Absorption,
    CheckedRun,
    Connections,
    Correction,
    Keeper,
    WatchedCalls,
    absorb_biases,
    correct_analytically,
    correct_empirically,
    equalise,
    find_connections,
    fold_batchnorm,
    rescaled,
)

RECORD = "dfq.json"


@dataclass(frozen=True)
class Prepared:
    """A detector whose float weights were equalised, its quantizers in place, and what is known of it."""

    quantized: Quantized
    connections: Connections
    absorption: Absorption


@dataclass(frozen=True)
class Equalised:
    """What was equalised, absorbed and corrected, and why anything was not."""

    connections: Connections
    absorption: Absorption
    correction: Correction

    def sentence(self) -> str:
        """How many of each."""
        absorbed = sum(bool((constant > 0).any()) for constant in self.absorption.constants.values())
        return (
            f"equalised {counted(len(self.connections.pairs), 'pair')} of layers, absorbed biases of {absorbed}, "
            f"corrected those of {len(self.correction.shifts)}"
        )

    def write(self, folder: Path) -> None:
        """Write ``dfq.json``; of what was moved between biases the largest magnitude of each layer."""
        document = {
            "equalised": [[pair.first, list(pair.seconds)] for pair in self.connections.pairs],
            "not_equalised": self.connections.refused,
            "absorbed": _largest(self.absorption.constants),
            "not_absorbed": self.absorption.refused,
            "corrected": _largest(self.correction.shifts),
            "not_corrected": self.correction.refused,
        }
        (folder / RECORD).write_text(json.dumps(document, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def prepared_from_float(
    detector: Detector, *, example: CheckedRun, profile: Profile, bits: Bits | None = None
) -> Prepared:
    """Fold, equalise and absorb, and put quantizers in place, all off and without activation ranges.

    Args:
        detector: A float detector; changed in place.
        example: Is run to find which layer reads which, its values decide nothing; and to see that outputs stay.
        profile: Its quantization section says how.
        bits: Those of a bit plan, in place of the profile's.

    Raises:
        ValueError: A rewrite changed what the detector computes.
    """
    calls = WatchedCalls(detector, example)
    folding = fold_batchnorm(detector, calls)
    example.rewritten("folding", changed=folding.changed)
    connections = find_connections(detector, example, stated=detector.value_pairs())
    factors = equalise(detector, connections.pairs)
    rescaled_modules = connections.changed_by(connections.pairs)
    example.rewritten("equalisation", changed=rescaled_modules)
    example()
    absorption = absorb_biases(detector, connections, rescaled(folding.statistics, factors))
    if any(bool((constant > 0).any()) for constant in absorption.constants.values()):
        example.rewritten("absorption", changed=rescaled_modules, exact=False)
        example()
    quantized = with_quantizers(detector, folding, profile=profile, bits=bits, unrun=calls.reasons())
    example.rewritten("conversion")
    example()
    return Prepared(quantized, connections, absorption)


def correct(
    prepared: Prepared, *, how: str, run: Callable[[], object], keeper: Keeper | None = None, progress: bool = False
) -> Equalised:
    """Correct the biases of a detector that has its ranges.

    Args:
        prepared: By ``prepared_from_float``, calibrated since.
        how: ``none``, ``analytic`` or ``empirical``.
        run: Runs the calibration samples; once per layer, for ``empirical`` alone.
        keeper: Is given what is done after each layer, and has what a call that was stopped has done.
        progress: Show a bar.
    """
    detector, correction = prepared.quantized.detector, Correction({}, {})
    if how == "analytic":
        correction = correct_analytically(detector, prepared.connections.links, prepared.absorption.statistics)
    elif how == "empirical":
        with tqdm(desc="correct biases", unit="layer", disable=not progress) as bar:
            correction = correct_empirically(detector, run, keeper=keeper or Keeper(), on_layer=lambda _: bar.update())
    return Equalised(prepared.connections, prepared.absorption, correction)


def _largest(tensors: Mapping[str, Tensor]) -> dict[str, float]:
    return {name: float(values.abs().max()) for name, values in tensors.items()}
