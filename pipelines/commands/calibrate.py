"""calibrate: ranges from ordered samples of the train split; evaluation samples are refused."""

from __future__ import annotations

from pipelines.calibration.calibrated import calibrated
from pipelines.calibration.methods import calibration_row
from pipelines.reporting.outcome import Outcome
from pipelines.store.artifacts import Store
from profiles import Profile


def run(
    profile: Profile,
    *,
    store: Store,
    method: str | None = None,
    force: bool = False,
    dry_run: bool = False,
    progress: bool = True,
) -> Outcome:
    """Calibrate the float detector and seal the quantized one.

    Args:
        profile: What is wanted.
        store: Where the artifact goes.
        method: One of ``METHODS``, in place of the profile's.
        force: Calibrate again even if it is sealed.
        dry_run: Say what would be done.
        progress: Show bars.

    Raises:
        ValueError: A float profile, or calibration samples that the evaluation uses.
    """
    if method is not None and method != profile.calibration.method:
        profile = profile.model_copy(update={"calibration": profile.calibration.model_copy(update={"method": method})})
    if dry_run:
        return Outcome(would_do=_steps(profile))
    artifact, message = calibrated(profile, store=store, force=force, progress=progress)
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
