"""qat-progressive: Algorithm 1, phase 1 of QD-BEV; part after part is quantized, each stage trained from the last."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.assembly.weights import float_artifact
from pipelines.reporting.outcome import Outcome
from pipelines.scoring.evaluation import evaluate_artifact
from pipelines.store.artifacts import Artifact, Store
from pipelines.training.stages import stage_parts, trained_stages
from profiles import Profile


def run(
    profile: Profile,
    *,
    store: Store,
    stages: int | None = None,
    force: bool = False,
    dry_run: bool = False,
    progress: bool = True,
) -> Outcome:
    """Train all stages and seal each; score the float detector, PTQ and each stage where the profile says so.

    Args:
        profile: Its section ``qat`` says how; it is calibrated first where that is missing.
        store: Where artifacts are found and go.
        stages: 1 to 4, in place of the profile's.
        force: Train again even if sealed.
        dry_run: Say what would be done.
        progress: Show bars.
    """
    groups = stage_parts(stages or profile.qat.stages, without=profile.model.empty_parts)
    if dry_run:
        steps = [_sentence(profile, number=number, groups=groups) for number in range(1, len(groups) + 1)]
        return Outcome(would_do=steps)

    def score(model: Artifact) -> None:
        evaluate_artifact(profile, store=store, model=model, force=force, progress=progress)

    each = score if profile.qat.evaluate_each_stage else None
    if each is not None:
        each(float_artifact(profile, store=store))
    artifact, messages = trained_stages(
        profile, store=store, stages=stages, force=force, progress=progress, on_stage=each
    )
    return Outcome(artifact, metrics=dict(artifact.manifest.metrics), messages=messages)


def _sentence(profile: Profile, *, number: int, groups: Sequence[tuple[str, ...]]) -> str:
    parts, steps = groups[number - 1], profile.qat.steps(groups[number - 1])
    return f"stage {number}: quantize {' and '.join(parts)} too, train {steps} steps"
