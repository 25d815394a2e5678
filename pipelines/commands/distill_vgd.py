"""distill-vgd: the quantized detector trained on with the float detector as teacher, by default view-guided."""

from __future__ import annotations

from dataclasses import replace

from pipelines.assembly.job import Job
from pipelines.costs.forecast import distillation_forecast, training_memory
from pipelines.costs.hours import hours
from pipelines.costs.preflight import preflight
from pipelines.costs.work import distillation_work
from pipelines.reporting.outcome import Outcome
from pipelines.store.events import where_to_look
from pipelines.training.distillation import distil
from pipelines.training.objectives import refuse_untapped
from pipelines.training.stages import trained_stages
from pipelines.training.teacher import refuse_unkeepable
from profiles import Profile
from profiles.wording import counted


def run(job: Job, *, control: bool = False, dry_run: bool = False) -> Outcome:
    """Distil the last stage of progressive QAT and seal the result.

    Args:
        job: Its section ``distillation`` says how; the stages before are trained first where they are missing, and not
            again where the job forces.
        control: Train as many steps without a teacher: what distillation is to be held against.
        dry_run: Say what would be done.

    Raises:
        ValueError: The detector has no taps, or its teacher cannot be kept as wanted.
    """
    if not control:
        refuse_untapped(job.stated)
        refuse_unkeepable(job.stated)
    said = preflight(job, dry_run=dry_run, trains=True)
    if dry_run:
        took = hours(job, frames=distillation_work(job.stated, taught=not control), what="these steps")
        return Outcome(
            would_do=_steps(job.stated, control=control),
            messages=[*said, *training_memory(job.stated, distils=True), took],
        )
    parent, messages = trained_stages(replace(job, force=False))
    artifact, message = distil(job, parent=parent, distilled=not control)
    said = [*messages, message, *where_to_look([artifact.path])]
    return Outcome(artifact, metrics=dict(artifact.manifest.metrics), messages=said)


def _steps(profile: Profile, *, control: bool) -> list[str]:
    """What would be done, a sentence a step."""
    steps, name = counted(profile.distillation.schedule.steps, "step"), profile.model.name
    if control:
        return [f"train the quantized {name} on without a teacher: {steps}"]
    by = ", ".join(profile.distillation.objectives)
    sentence = f"distil the quantized {name} from its float self: {steps}, by {by}"
    return [sentence, *distillation_forecast(profile)]
