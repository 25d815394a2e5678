"""Calibration methods, a row each: how one makes a quantized detector of a float one, and its steps in words.

To add one: a function of ``FloatRun`` with its row here, and its name in the profile's ``CalibrationMethod``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from torch import nn

from pipelines.assembly.detector import Detector
from pipelines.assembly.quantized import Bits, Quantized, quantized_from_float
from pipelines.assembly.samples import Split
from pipelines.calibration.data_free import correct, prepared_from_float
from pipelines.calibration.reconstruction import reconstruct_blocks
from pipelines.calibration.rounding import compensate, learn_rounding
from profiles import Profile
from profiles.sections.calibration import CalibrationMethod, CalibrationProfile
from profiles.sections.schedule import PARTS


class WorkRecord(Protocol):
    """What a method says of its work."""

    def sentence(self) -> str:
        """In a sentence, for the terminal."""

    def write(self, folder: Path) -> None:
        """In a file of the artifact."""


@dataclass(frozen=True)
class FloatRun:
    """A float detector and the calibration samples, as every method gets them."""

    detector: Detector
    """Changed in place."""
    profile: Profile
    """Its quantization section says what is quantized, its calibration section how."""
    split: Split
    """Two frames of it are run to find which layer follows which."""
    observe: Callable[[Quantized], object]
    """Sets the ranges of a quantized detector on the samples."""
    run: Callable[[nn.Module], object]
    """Runs the samples through a detector."""
    bits: Bits | None = None
    """Those of a bit plan, in place of the profile's."""
    progress: bool = False
    """Show bars."""

    @property
    def section(self) -> CalibrationProfile:
        """The calibration section of the profile."""
        return self.profile.calibration

    def observed(self) -> Quantized:
        """The detector with quantizers and their ranges, weights as they were."""
        quantized = quantized_from_float(self.detector, profile=self.profile, split=self.split, bits=self.bits)
        self.observe(quantized)
        return quantized


@dataclass(frozen=True)
class CalibrationRow:
    """One method."""

    name: CalibrationMethod
    calibrate: Callable[[FloatRun], tuple[Quantized, list[WorkRecord]]]
    """Gives the quantized detector with its ranges, and the records of what was done besides."""
    after: Callable[[CalibrationProfile], str] | None = None
    """What is done once ranges are set, in words."""
    before: str = ""
    """What is done before, in words."""
    rounds: bool = False
    """Whether it learns roundings that training can start from."""

    def steps(self, profile: Profile) -> list[str]:
        """What would be done, a sentence a step."""
        section = profile.calibration
        before = [self.before.format(model=profile.model.name)] if self.before else []
        ranges = (
            f"calibrate {profile.model.name} to {profile.quantization.label} on {section.samples} samples of the train "
            "split"
        )
        return [*before, ranges, *([self.after(section)] if self.after else [])]


def _ptq(given: FloatRun) -> tuple[Quantized, list[WorkRecord]]:
    return given.observed(), []


def _dfq(given: FloatRun) -> tuple[Quantized, list[WorkRecord]]:
    prepared = prepared_from_float(given.detector, profile=given.profile, split=given.split, bits=given.bits)
    given.observe(prepared.quantized)
    run = partial(given.run, given.detector)
    record = correct(prepared, how=given.section.bias_correction, run=run, progress=given.progress)
    return prepared.quantized, [record]


def _gptq(given: FloatRun) -> tuple[Quantized, list[WorkRecord]]:
    quantized = given.observed()
    return quantized, [compensate(given.detector, run=partial(given.run, given.detector), parts=PARTS)]


def _adaround(given: FloatRun) -> tuple[Quantized, list[WorkRecord]]:
    quantized = given.observed()
    record = learn_rounding(given.detector, run=given.run, parts=PARTS, section=given.section, progress=given.progress)
    return quantized, [record]


def _reconstructed(given: FloatRun, *, drop: float) -> tuple[Quantized, list[WorkRecord]]:
    quantized = given.observed()
    record = reconstruct_blocks(
        given.detector, run=given.run, parts=PARTS, section=given.section, drop=drop, progress=given.progress
    )
    return quantized, [record]


def _corrects_biases(section: CalibrationProfile) -> str:
    return {
        "none": "leave the biases as they are",
        "analytic": "correct the biases of the layers whose mean input a batch norm tells, without data",
        "empirical": f"correct the biases of all layers, running the {section.samples} samples once for each",
    }[section.bias_correction]


def _compensates(_section: CalibrationProfile) -> str:
    return "round the weights so that each layer's output on these samples changes least"


def _learns_layers(section: CalibrationProfile) -> str:
    return (
        f"learn the rounding of the weights, {section.iterations} steps for each layer, so that its output on these "
        "samples changes least"
    )


def _learns_blocks(section: CalibrationProfile) -> str:
    return (
        f"learn the rounding of the weights, {section.iterations} steps for each block, and its activation ranges, so "
        "that its output on these samples changes least"
    )


def _learns_blocks_with_drops(section: CalibrationProfile) -> str:
    return f"{_learns_blocks(section)}, half of the activations at random in float"


METHODS = (
    CalibrationRow("ptq", _ptq),
    CalibrationRow(
        "dfq",
        _dfq,
        before="fold the batch norms of {model}, equalise the ranges of consecutive layers, absorb large biases",
        after=_corrects_biases,
    ),
    CalibrationRow("gptq", _gptq, after=_compensates, rounds=True),
    CalibrationRow("adaround", _adaround, after=_learns_layers, rounds=True),
    CalibrationRow("brecq", partial(_reconstructed, drop=0.0), after=_learns_blocks, rounds=True),
    CalibrationRow("qdrop", partial(_reconstructed, drop=0.5), after=_learns_blocks_with_drops, rounds=True),
)


def calibration_row(name: CalibrationMethod) -> CalibrationRow:
    """The row of a method."""
    return next(row for row in METHODS if row.name == name)
