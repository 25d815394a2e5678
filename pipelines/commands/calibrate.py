"""calibrate: ranges from ordered samples of the train split; evaluation samples are refused."""

from __future__ import annotations

from pipelines.assembly.job import Job
from pipelines.calibration.calibrated import calibrated
from pipelines.calibration.methods import calibration_row
from pipelines.costs.forecast import inference_memory
from pipelines.costs.hours import hours
from pipelines.costs.preflight import preflight
from pipelines.reporting.outcome import Outcome
from profiles import Profile


def run(job: Job, *, dry_run: bool = False) -> Outcome:
    """Calibrate the float detector and seal the quantized one.

    Args:
        job: What is wanted; its section ``calibration`` names the method.
        dry_run: Say what would be done.

    Raises:
        ValueError: A float profile, or calibration samples that the evaluation uses.
    """
    said = preflight(job, dry_run=dry_run)
    if dry_run:
        took = hours(job, frames=job.stated.calibration.samples, what=_timed(job.stated))
        return Outcome(would_do=_steps(job.stated), messages=[*said, *inference_memory(job.stated), took])
    artifact, message = calibrated(job)
    return Outcome(artifact, metrics=dict(artifact.manifest.metrics), messages=[message])


def _timed(profile: Profile) -> str:
    """What of the work a time can be told for, in words."""
    row, section = calibration_row(profile.calibration.method), profile.calibration
    if row.rounds:
        return "the ranges, and longer for the rounding"
    if row.name == "dfq" and section.bias_correction == "empirical":
        return "the ranges, and as long again for each layer's bias"
    return "all of it"


def _steps(profile: Profile) -> list[str]:
    """What would be done, a sentence a step."""
    alpha = profile.calibration.smoothing
    smoothing = (
        []
        if alpha is None
        else [f"move scales of layer norm channels into the linear layers that read them (alpha {alpha})"]
    )
    return [*smoothing, *calibration_row(profile.calibration.method).steps(profile)]
