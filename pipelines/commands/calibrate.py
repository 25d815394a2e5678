"""calibrate: ranges from ordered samples of the train split; evaluation samples are refused."""

from __future__ import annotations

from pipelines.assembly.job import Job
from pipelines.calibration.calibrated import calibrated
from pipelines.calibration.methods import calibration_row
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
        return Outcome(would_do=_steps(job.stated), messages=said)
    artifact, message = calibrated(job)
    return Outcome(artifact, metrics=dict(artifact.manifest.metrics), messages=[message])


def _steps(profile: Profile) -> list[str]:
    """What would be done, a sentence a step."""
    alpha = profile.calibration.smoothing
    smoothing = (
        []
        if alpha is None
        else [f"move scales of layer norm channels into the linear layers that read them (alpha {alpha})"]
    )
    return [*smoothing, *calibration_row(profile.calibration.method).steps(profile)]
