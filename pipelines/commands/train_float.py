"""train-float: the float detector trained from scratch on the train scenes, auxiliary heads dropped at the end."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.assembly.job import Job
from pipelines.costs.forecast import float_training_memory
from pipelines.costs.hours import hours
from pipelines.costs.preflight import preflight
from pipelines.costs.work import float_training_work
from pipelines.reporting.outcome import Outcome
from pipelines.store.events import where_to_look
from pipelines.training.float_training import controls_of, float_trained, trained_on
from profiles import Profile
from profiles.wording import counted


def run(job: Job, *, further: bool = False, dry_run: bool = False) -> Outcome:
    """Train, seal the averaged weights, and give the artifact.

    Args:
        job: Its sections ``model``, ``data`` and ``float_training`` and its seed decide the result.
        further: Train the profile's weights on, as its QAT and distillation do: their float control, an artifact for
            each stage.
        dry_run: Say what would be done.

    Returns:
        The command's outcome (``pipelines.reporting.outcome``).
    """
    trainings = controls_of(job.stated) if further else [job.stated]
    said = preflight(job, dry_run=dry_run, weights=further, calibrates=False, trains=True)
    if dry_run:
        origins = _origins(trainings, further=further)
        return Outcome(
            would_do=[_step(profile, origin=origin) for profile, origin in zip(trainings, origins, strict=True)],
            messages=[
                *said,
                *float_training_memory(job.stated),
                hours(job, frames=sum(map(float_training_work, trainings))),
            ],
        )
    artifact, message = trained_on(job) if further else float_trained(job)
    return Outcome(
        artifact, metrics=dict(artifact.manifest.metrics), messages=[message, *where_to_look([artifact.path])]
    )


def _origins(trainings: Sequence[Profile], *, further: bool) -> list[str]:
    """What each training starts from, in words."""
    first, *others = trainings
    unnamed = "the imported weights" if further else "scratch"
    return [first.float_training.start_from or unnamed, *("what that made" for _ in others)]


def _step(profile: Profile, *, origin: str) -> str:
    schedule = profile.float_training
    parts = "" if schedule.parts is None else f" ({', '.join(schedule.parts)})"
    steps, size = counted(schedule.steps, "step"), counted(schedule.batch_size, "sample")
    return f"train {profile.model.name}{parts} from {origin}: {steps} of {size}"
