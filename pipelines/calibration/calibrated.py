"""The calibrated detector of a profile: float weights in, ranges from ordered samples, one artifact out."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from pipelines.assembly.detector import Detector
from pipelines.assembly.job import Job
from pipelines.assembly.quantized import Quantized, quantized_cost, write_quantized
from pipelines.assembly.samples import notes_on
from pipelines.assembly.weights import float_artifact, float_detector, package_versions
from pipelines.calibration.hazards import linted_example
from pipelines.calibration.kept_ranges import KeptRanges
from pipelines.calibration.kept_rounds import KeptRounds
from pipelines.calibration.methods import Kept, WorkRecord, calibration_row
from pipelines.calibration.observing import refuse_evaluation_samples, run_samples
from pipelines.calibration.smoothing import smoothed
from pipelines.lineage.keys import calibration_key
from pipelines.lineage.kinds import CALIBRATION
from pipelines.store.making import Content, Made, made
from profiles.sections.schedule import PARTS
from profiles.wording import counted
from qdbev.quantization import CheckedRun, trainable_parameters


def calibrated(job: Job) -> Made:
    """The sealed calibration of a profile, made where it is missing.

    Args:
        job: Its sections ``model``, ``quantization`` and ``calibration`` and the train split decide it.

    Raises:
        ValueError: A float profile, or calibration samples that the evaluation uses.
    """
    profile = job.profile
    if profile.quantization.is_float:
        raise ValueError(f"profile {profile.name} quantizes nothing; choose one such as w4a6")
    source = float_artifact(job)  # missing weights are said before scenes are made
    split = job.split("train")
    tokens = refuse_evaluation_samples(job.calibration_samples(), evaluated=job.evaluation_split())
    key = calibration_key(profile, source=source.digest, tokens=tokens, data=split.digest)
    make = partial(_calibrate, job, source=source.digest, tokens=tokens, key=key)
    return made(job, CALIBRATION, key=key, make=make, known="already calibrated; --force does it again")


def _calibrate(job: Job, *, source: str, tokens: list[str], key: str) -> Content:
    """Calibrate the float detector whose artifact has the digest ``source``."""
    profile, split = job.profile, job.split("train")
    detector, _ = float_detector(job)
    trainable = trainable_parameters(detector)
    kept = Kept(KeptRanges(job, CALIBRATION, key=key), KeptRounds(job, CALIBRATION, key=key))
    quantized, records, checked = _with_ranges(detector, job=job, kept=kept)
    quantized.switch_on(PARTS)

    def write(folder: Path) -> None:
        write_quantized(folder, quantized=quantized, profile=profile)
        for record in records:
            record.write(folder)

    return Content(
        write,
        parents={"float": source} | ({} if job.plan is None else {"plan": job.plan.digest}),
        data={"train": split.digest, "calibration_tokens": list(dict.fromkeys([*tokens, *job.plan_tokens]))},
        metrics=quantized_cost(quantized, profile=profile, split=split, trainable=trainable) | {"trainable": trainable},
        packages=package_versions(),
        notes=notes_on(split),
        message="; ".join(
            [
                *filter(None, [*(record.sentence() for record in records), checked]),
                f"calibrated on {counted(len(tokens), 'sample')} of the train split",
            ]
        ),
    )


def _with_ranges(detector: Detector, *, job: Job, kept: Kept) -> tuple[Quantized, list[WorkRecord], str]:
    """Quantize a float detector and set its ranges; with records of what did more, and by how much rewrites differ."""
    section = job.profile.calibration
    example = CheckedRun(detector, linted_example(detector, job=job))
    smoothing: list[WorkRecord] = []
    if section.smoothing is not None:
        run = partial(run_samples, detector, job=job)
        smoothing = [smoothed(detector, example=example, run=run, alpha=section.smoothing)]
    quantized, records = calibration_row(section.method).calibrate(detector, job, example, kept)
    return quantized, [*smoothing, *records], example.sentence()
