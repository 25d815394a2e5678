"""Rounding a detector's weights so that layers' outputs change least.

One after the other (GPTQ), in calibration or as a stage of training begins; or learned (AdaRound), in calibration.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn
from tqdm import tqdm

from profiles.sections.calibration import CalibrationProfile
from profiles.wording import counted
from qdbev.quantization import CheckedRun, Compensation, Keeper, adaptive_rounding, compensate_rounding
from qdbev.quantization.rounding.blocks import Block

_NOW = {"gptq": "compensated", "adaround": "learned"}


@dataclass(frozen=True)
class Rounded:
    """What was rounded, and why anything was not.

    Attributes:
        compensation: what the library says.
        method: ``gptq`` or ``adaround``.
    """

    compensation: Compensation
    method: str = "gptq"

    def sentence(self) -> str:
        """How many, and what it changed in the middle one."""
        if not self._errors():
            return f"rounded no weights ({self.method}.json says why)"
        nearest, now = (sorted(errors)[len(errors) // 2] for errors in zip(*self._errors(), strict=True))
        return (
            f"rounded {counted(len(self._errors()), 'weight')} so that outputs change least: a median of {now:.2%} of "
            f"an output's variance, {nearest:.2%} by nearest rounding"
        )

    def write(self, folder: Path) -> None:
        """Write ``gptq.json`` or ``adaround.json``."""
        rounded = [
            {**_named(block), "nearest": nearest, _NOW[self.method]: now}
            for block, (nearest, now) in self.compensation.errors.items()
        ]
        document = {"rounded": rounded, "not_rounded": self.compensation.refused}
        text = json.dumps(document, indent=1, sort_keys=True) + "\n"
        (folder / f"{self.method}.json").write_text(text, encoding="utf-8")

    def _errors(self) -> list[tuple[float, float]]:
        return list(self.compensation.errors.values())


def _named(block: Block) -> dict[str, object]:
    """The fields of a block; the phase of a transposed convolution alone has one."""
    return {name: value for name, value in block._asdict().items() if value is not None}


def compensate(
    detector: nn.Module, *, run: Callable[[], object], parts: Sequence[str], keeper: Keeper | None = None
) -> Rounded:
    """Put the weights of some parts on their grid so that the layers' outputs in a run change least; in place.

    Args:
        detector: Quantized, with ranges; its other parts run as they are switched, and afterwards these are off.
        run: Runs the calibration samples.
        parts: Round the weights of these.
        keeper: Is given what is done from time to time, and has what a call that was stopped has done.

    Raises:
        ValueError: Weight ranges that follow the weights, which would move under the rounded ones.
    """
    return Rounded(compensate_rounding(detector, run, parts, keeper=keeper or Keeper()))


def compare_rounded(example: CheckedRun) -> None:
    """Compare what weights on their grid make of the example with what they made in float, quantizers off.

    Raises:
        ValueError: An output is no longer finite.
    """
    example.rewritten("rounding", exact=False)
    example()


def learn_rounding(
    detector: nn.Module,
    *,
    run: Callable[[nn.Module], object],
    parts: Sequence[str],
    section: CalibrationProfile,
    keeper: Keeper | None = None,
    progress: bool = False,
) -> Rounded:
    """Put the weights of some parts on their grid by learned rounding, layer by layer; in place.

    Args:
        detector: Quantized, with ranges; its other parts run as they are switched, and afterwards these are off.
        run: Runs the calibration samples through the detector it is given.
        parts: Round the weights of these.
        section: Says how many steps, and how large.
        keeper: Is given what is done from time to time, and has what a call that was stopped has done.
        progress: Show a bar.

    Raises:
        ValueError: Weight ranges that follow the weights, which would move under the rounded ones.
    """
    with tqdm(desc="adaround", unit="layer", disable=not progress) as bar:

        def on_block(total: int) -> None:
            bar.total = total
            bar.update()

        done = adaptive_rounding(
            detector,
            copy.deepcopy(detector),
            run,
            parts,
            iterations=section.iterations,
            learning_rate=section.learning_rate,
            asymmetric=section.adaround_target == "float",
            keeper=keeper or Keeper(),
            on_block=on_block,
        )
    return Rounded(done, method="adaround")
