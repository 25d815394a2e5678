"""Block reconstruction (BRECQ, QDrop): roundings and activation ranges of a calibrated detector, block by block."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn
from tqdm import tqdm

from profiles.sections.calibration import CalibrationProfile
from qdbev.quantization import Keeper, Reconstruction, reconstruct


@dataclass(frozen=True)
class Reconstructed:
    """What was reconstructed, and why anything was not.

    Attributes:
        reconstruction: what the library says.
        method: Its name in the profile.
    """

    reconstruction: Reconstruction
    method: str

    def sentence(self) -> str:
        """How many, and what it changed in the middle one."""
        errors = list(self.reconstruction.errors.values())
        if not errors:
            return f"reconstructed no blocks ({self.method}.json says why)"
        before, now = (sorted(each)[len(each) // 2] for each in zip(*errors, strict=True))
        changed = len(errors) - len(self.reconstruction.unchanged)
        return (
            f"reconstructed {changed} of {len(errors)} blocks: a median error of "
            f"{now:.2%} of a block's output, {before:.2%} by nearest rounding"
        )

    def write(self, folder: Path) -> None:
        """Write a file with the name of the method, such as ``brecq.json``."""
        done = self.reconstruction
        blocks = [
            {**unit._asdict(), "nearest": before, "learned": now, "kept_as_calibrated": unit.path in done.unchanged}
            for unit, (before, now) in done.errors.items()
        ]
        document = {"blocks": blocks, "not_reconstructed": done.refused}
        text = json.dumps(document, indent=1, sort_keys=True) + "\n"
        (folder / f"{self.method}.json").write_text(text, encoding="utf-8")


def reconstruct_blocks(
    detector: nn.Module,
    *,
    run: Callable[[nn.Module], object],
    parts: Sequence[str],
    section: CalibrationProfile,
    drop: float,
    keeper: Keeper | None = None,
    progress: bool = False,
) -> Reconstructed:
    """Reconstruct the blocks of some parts, in place.

    Args:
        detector: Quantized, with ranges; its other parts run as they are switched, and afterwards these are off.
        run: Runs the calibration samples through the detector it is given.
        parts: Whose blocks.
        section: Names the method; says how many steps, how large, and what draws.
        drop: Share of the activations that stay in float at each step, drawn at random.
        keeper: Is given what is done from time to time, and has what a call that was stopped has done.
        progress: Show a bar.

    Raises:
        ValueError: Weight ranges that follow the weights, which would move under the rounded ones.
    """
    with tqdm(desc=section.method, unit="block", disable=not progress) as bar:

        def on_unit(total: int) -> None:
            bar.total = total
            bar.update()

        done = reconstruct(
            detector,
            copy.deepcopy(detector),
            run,
            parts,
            iterations=section.iterations,
            learning_rate=section.learning_rate,
            drop=drop,
            seed=section.seed,
            keeper=keeper or Keeper(),
            on_unit=on_unit,
        )
    return Reconstructed(done, section.method)
