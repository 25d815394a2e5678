"""distill-vgd: the quantized detector trained on with the float detector as teacher, by default view-guided."""

from __future__ import annotations

from pipelines.costs.forecast import distillation_forecast
from pipelines.reporting.outcome import Outcome
from pipelines.store.artifacts import Store
from pipelines.training.distillation import distil
from pipelines.training.objectives import refuse_untapped
from pipelines.training.stages import trained_stages
from pipelines.training.teacher import refuse_unkeepable
from profiles import Profile


def run(
    profile: Profile,
    *,
    store: Store,
    control: bool = False,
    force: bool = False,
    dry_run: bool = False,
    progress: bool = True,
) -> Outcome:
    """Distil the last stage of progressive QAT and seal the result.

    Args:
        profile: Its section ``distillation`` says how; the stages before are trained first where they are missing.
        store: Holds the trained stages; the result goes there.
        control: Train as many steps without a teacher: what distillation is to be held against.
        force: Distil again even if sealed.
        dry_run: Say what would be done.
        progress: Show bars.

    Raises:
        ValueError: The detector has no taps, or its teacher cannot be kept as wanted.
    """
    steps, name = profile.distillation.schedule.steps, profile.model.name
    if not control:
        refuse_untapped(profile)
        refuse_unkeepable(profile)
    if dry_run and control:
        return Outcome(would_do=[f"train the quantized {name} on without a teacher: {steps} steps"])
    if dry_run:
        by = ", ".join(profile.distillation.objectives)
        step = f"distil the quantized {name} from its float self: {steps} steps, by {by}"
        return Outcome(would_do=[step, *distillation_forecast(profile)])
    parent, messages = trained_stages(profile, store=store, progress=progress)
    artifact, message = distil(
        profile, store=store, parent=parent, distilled=not control, force=force, progress=progress
    )
    return Outcome(artifact, metrics=dict(artifact.manifest.metrics), messages=[*messages, message])
