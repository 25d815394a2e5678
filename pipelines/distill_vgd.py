"""distill-vgd: the quantized detector trained on with the view-guided loss, the float detector as teacher."""

from __future__ import annotations

from typing import Any

from pipelines.assemble import with_taps
from pipelines.distillation import distil
from pipelines.outcome import dry, finished
from pipelines.stages import trained_stages
from pipelines.store import Store
from profiles import Profile


def run(
    profile: Profile,
    *,
    store: Store,
    control: bool = False,
    force: bool = False,
    dry_run: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Distil the last stage of progressive QAT and seal the result.

    Args:
        profile: Its section ``distillation`` says how; the stages before are trained first where they are missing.
        store: Holds the trained stages; the result goes there.
        control: Train as many steps without a teacher: what distillation is to be held against.
        force: Distil again even if sealed.
        dry_run: Say what would be done.
        progress: Show bars.

    Raises:
        ValueError: The detector has no taps.
    """
    if not control:
        with_taps(profile)
    steps, name = profile.distillation.schedule.steps, profile.model.name
    if dry_run:
        doing = (
            "train the quantized {} on without a teacher" if control else "distil the quantized {} from its float self"
        )
        return dry([f"{doing.format(name)}: {steps} steps"])
    parent, messages = trained_stages(profile, store=store, progress=progress)
    artifact, message = distil(
        profile, store=store, parent=parent, distilled=not control, force=force, progress=progress
    )
    return finished(artifact, metrics=dict(artifact.manifest.metrics), messages=[*messages, message])
