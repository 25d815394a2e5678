"""sensitivity: the paper's table 1; each part alone quantized, and all, or each layer alone (no training)."""

from __future__ import annotations

from typing import Any

from pipelines.assembly.detector import build_detector
from pipelines.assembly.job import Job
from pipelines.assembly.quantized import detector_plan
from pipelines.costs.forecast import inference_memory
from pipelines.costs.hours import hours, scored_samples
from pipelines.costs.preflight import preflight
from pipelines.costs.work import scoring_work
from pipelines.lineage.kinds import SENSITIVITY_PICTURE
from pipelines.reporting.outcome import Outcome
from pipelines.scoring.sensitivity import sensitivity_of
from pipelines.store.artifacts import Artifact
from profiles import Profile
from qdbev.reporting.tables.results import sensitivity_table

LEVELS = ("part", "module")


def run(job: Job, *, level: str = "part", dry_run: bool = False) -> Outcome:
    """Measure the table and seal it.

    Args:
        job: Model, quantization, calibration and evaluation sections and the seed decide the result.
        level: ``part`` for the paper's table, ``module`` for every layer alone.
        dry_run: Say what would be done.

    Raises:
        ValueError: An unknown level, a profile that quantizes nothing, another method than ptq, or calibration samples
            that are evaluated.
    """
    if level not in LEVELS:
        raise ValueError(f"level is {level!r}, expected part or module")
    refuse_immeasurable(job.stated)
    job.refuse_no_ground_truth()
    said = preflight(job, dry_run=dry_run)
    if dry_run:
        name, bits = job.stated.model.name, job.stated.quantization.label
        took = hours(job, frames=_work(job.stated, level=level), what="all rows, less what they share")
        return Outcome(
            would_do=[f"evaluate {name} with each {level} alone in {bits}, and all"],
            messages=[*said, *inference_memory(job.stated), took],
        )
    artifact, message = sensitivity_of(job, level=level)
    return _outcome(artifact, message=message)


def _work(profile: Profile, *, level: str) -> float:
    """Frames of calibration and of every row, as if none shared work with another."""
    detector = build_detector(profile.model, rig=profile.data.rig)
    sites = detector_plan(detector, section=profile.quantization).quantized
    alone = {site.part if level == "part" else site.path for site in sites}
    return profile.calibration.samples + (len(alone) + 2) * scoring_work(scored_samples(profile))


def refuse_immeasurable(profile: Profile) -> None:
    """Refuse a profile that no table can be measured for.

    Raises:
        ValueError: It quantizes nothing, or calibrates by a method that changes what rows in float should have.
    """
    if profile.quantization.is_float:
        raise ValueError(f"profile {profile.name} quantizes nothing; choose one such as w4a6, or give --bits")
    if profile.calibration.label != "ptq":
        raise ValueError(
            f"the table is measured with method ptq alone, not {profile.calibration.label}: what that changes in "
            "weights and biases would shift the rows that leave them in float; set calibration.method to ptq (default)"
        )


def _outcome(artifact: Artifact, *, message: str) -> Outcome:
    rows: Any = artifact.manifest.metrics["rows"]
    picture = artifact.file(SENSITIVITY_PICTURE)
    table = sensitivity_table(rows, reference="float")
    return Outcome(artifact, tables=[table], metrics={"rows": rows}, messages=[message, f"picture: {picture}"])
