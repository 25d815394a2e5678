"""qat-progressive: Algorithm 1, phase 1 of QD-BEV; part after part is quantized, each stage trained from the last."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from pipelines.assembly.job import Job
from pipelines.assembly.weights import float_artifact
from pipelines.costs.forecast import training_memory
from pipelines.costs.hours import hours, scored_samples
from pipelines.costs.preflight import preflight
from pipelines.costs.work import qat_work
from pipelines.reporting.outcome import Outcome
from pipelines.scoring.evaluation import evaluate_artifact
from pipelines.store.events import where_to_look
from pipelines.training.stages import trained_stages
from profiles import Profile
from profiles.sections.schedule import stage_parts
from profiles.wording import counted


def run(job: Job, *, dry_run: bool = False) -> Outcome:
    """Train all stages and seal each; score the float detector, PTQ and each stage where the profile says so.

    Args:
        job: Its section ``qat`` says how; it is calibrated first where that is missing.
        dry_run: Say what would be done.
    """
    evaluations = job.stated.qat.stages + 2 if job.stated.qat.evaluate_each_stage else 0
    said = preflight(job, dry_run=dry_run, trains=True, evaluations=evaluations)
    if dry_run:
        groups = stage_parts(job.stated.qat.stages, without=job.stated.model.empty_parts)
        return Outcome(
            would_do=[_sentence(job.stated, number=number, groups=groups) for number in range(1, len(groups) + 1)],
            messages=[
                *said,
                *training_memory(job.stated, distils=False),
                hours(job, frames=qat_work(job.stated, scored=scored_samples(job.stated))),
            ],
        )
    score = partial(evaluate_artifact, job) if job.profile.qat.evaluate_each_stage else None
    if score is not None:
        score(model=float_artifact(job))
    on_stage = None if score is None else lambda model: score(model=model)
    artifact, messages = trained_stages(job, on_stage=on_stage)
    return Outcome(
        artifact, metrics=dict(artifact.manifest.metrics), messages=[*messages, *where_to_look([artifact.path])]
    )


def _sentence(profile: Profile, *, number: int, groups: Sequence[tuple[str, ...]]) -> str:
    parts, steps = groups[number - 1], profile.qat.steps(groups[number - 1])
    return f"stage {number}: quantize {' and '.join(parts)} too, train {counted(steps, 'step')}"
