"""Calibration methods, a row each: how one makes a quantized detector of a float one, and its steps in words.

To add one: a function of a detector and a job with its row here, and its name in the profile's ``CalibrationMethod``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from pipelines.assembly.detector import Detector
from pipelines.assembly.job import Job
from pipelines.assembly.quantized import Quantized, checked_quantized
from pipelines.calibration.data_free import correct, prepared_from_float
from pipelines.calibration.kept_ranges import KeptRanges
from pipelines.calibration.observing import observe, run_samples
from pipelines.calibration.reconstruction import reconstruct_blocks
from pipelines.calibration.rounding import compare_rounded, compensate, learn_rounding
from profiles import Profile
from profiles.sections.calibration import CalibrationMethod, CalibrationProfile
from profiles.sections.schedule import PARTS
from profiles.wording import counted
from qdbev.quantization import CheckedRun, Keeper


class WorkRecord(Protocol):
    """What a method says of its work."""

    def sentence(self) -> str:
        """In a sentence, for the terminal."""

    def write(self, folder: Path) -> None:
        """In a file of the artifact."""


Calibrated = tuple[Quantized, list[WorkRecord]]
"""The quantized detector with its ranges, and the records of what was done besides."""


@dataclass(frozen=True)
class Kept:
    """Where a method keeps what is done, and finds what was done before it was stopped."""

    ranges: KeptRanges
    rounds: Keeper


@dataclass(frozen=True)
class CalibrationRow:
    """One method."""

    name: CalibrationMethod
    calibrate: Callable[[Detector, Job, CheckedRun, Kept], Calibrated]
    """Of a float detector, which it changes in place, a job, whose samples it runs, the example that checks it, and
    what keeps its work in case it is stopped."""
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
        samples = counted(section.samples, "sample")
        ranges = f"calibrate {profile.model.name} to {profile.quantization.label} on {samples} of the train split"
        return [*before, ranges, *([self.after(section)] if self.after else [])]


def _observed(detector: Detector, job: Job, example: CheckedRun, kept: Kept) -> Quantized:
    """The detector with quantizers and their ranges, weights as they were."""
    quantized = checked_quantized(detector, example=example, profile=job.profile, bits=job.bits)
    observe(quantized, job=job, kept=kept.ranges, progress=job.progress)
    return quantized


def _ptq(detector: Detector, job: Job, example: CheckedRun, kept: Kept) -> Calibrated:
    return _observed(detector, job, example, kept), []


def _dfq(detector: Detector, job: Job, example: CheckedRun, kept: Kept) -> Calibrated:
    prepared = prepared_from_float(detector, example=example, profile=job.profile, bits=job.bits)
    observe(prepared.quantized, job=job, kept=kept.ranges, progress=job.progress)
    run = partial(run_samples, detector, job=job)
    how = job.profile.calibration.bias_correction
    return prepared.quantized, [correct(prepared, how=how, run=run, keeper=kept.rounds, progress=job.progress)]


def _gptq(detector: Detector, job: Job, example: CheckedRun, kept: Kept) -> Calibrated:
    quantized = _observed(detector, job, example, kept)
    record = compensate(detector, run=partial(run_samples, detector, job=job), parts=PARTS, keeper=kept.rounds)
    compare_rounded(example)
    return quantized, [record]


def _adaround(detector: Detector, job: Job, example: CheckedRun, kept: Kept) -> Calibrated:
    quantized, section = _observed(detector, job, example, kept), job.profile.calibration
    run = partial(run_samples, job=job)
    record = learn_rounding(detector, run=run, parts=PARTS, section=section, keeper=kept.rounds, progress=job.progress)
    compare_rounded(example)
    return quantized, [record]


def _reconstructed(detector: Detector, job: Job, example: CheckedRun, kept: Kept, *, drop: float) -> Calibrated:
    quantized, section = _observed(detector, job, example, kept), job.profile.calibration
    run = partial(run_samples, job=job)
    record = reconstruct_blocks(
        detector, run=run, parts=PARTS, section=section, drop=drop, keeper=kept.rounds, progress=job.progress
    )
    compare_rounded(example)
    return quantized, [record]


def _corrects_biases(section: CalibrationProfile) -> str:
    return {
        "none": "leave the biases as they are",
        "analytic": "correct the biases of the layers whose mean input a batch norm tells, without data",
        "empirical": f"correct the biases of all layers, running {counted(section.samples, 'sample')} once for each",
    }[section.bias_correction]


def _compensates(_section: CalibrationProfile) -> str:
    return "round the weights so that each layer's output on these samples changes least"


def _learns_layers(section: CalibrationProfile) -> str:
    return (
        f"learn the rounding of the weights, {counted(section.iterations, 'step')} for each layer, so that its output "
        "on these samples changes least"
    )


def _learns_blocks(section: CalibrationProfile) -> str:
    return (
        f"learn the rounding of the weights, {counted(section.iterations, 'step')} for each block, and its activation "
        "ranges, so that its output on these samples changes least"
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
