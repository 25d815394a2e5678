"""evaluate: the submission of a detector on the evaluation split, scored as nuScenes does, sealed with its scores."""

from __future__ import annotations

import json
from typing import Any

from pipelines.assembly.job import Job
from pipelines.assembly.weights import float_artifact
from pipelines.costs.forecast import inference_memory
from pipelines.costs.hours import hours, scored_samples
from pipelines.costs.preflight import preflight
from pipelines.costs.work import scoring_work
from pipelines.lineage.kinds import DETAILS, SCORES, SUBMISSION, TO_TRAINED
from pipelines.lineage.models import as_made, furthest
from pipelines.reporting.outcome import Outcome
from pipelines.scoring.absent import absent_sentence
from pipelines.scoring.evaluation import (
    SCORED_BEFORE,
    compared_with_devkit,
    evaluation_of,
    refuse_no_detector,
    runtime_stated,
)
from pipelines.scoring.published import against_published
from pipelines.store.artifacts import Artifact
from profiles.sections.rig import sealed_rig
from profiles.wording import counted
from qdbev.reporting.tables.results import comparison_table
from qdbev.reporting.tables.table import Table, plain_table


def run(
    job: Job, *, artifact: str | None = None, official: bool = False, runtime: str | None = None, dry_run: bool = False
) -> Outcome:
    """Evaluate one artifact.

    Args:
        job: Which data and how; the model of the artifact.
        artifact: What to evaluate, as the store names it; None takes the furthest stage of the profile, or the
            float detector where there is none.
        official: Have nuscenes-devkit score the sealed submission, too, and say whether the numbers are the same.
        runtime: What runs an exported graph; None takes the one that it was exported for.
        dry_run: Say what would be done.

    Raises:
        ValueError: ``official`` where there is no public ground truth.
    """
    model = job.store.open(artifact) if artifact else furthest(job.stated, store=job.store)
    if model is not None:
        refuse_no_detector(model)
    section = job.stated.evaluation
    if official:
        job.refuse_no_ground_truth()
    said_before = preflight(job, dry_run=dry_run, weights=model is None, calibrates=False, evaluations=1)
    if dry_run:
        name = model.path.name if model else f"the float {job.stated.model.name}"
        would_do = [f"evaluate {name} on the {section.split} split"]
        return Outcome(would_do=would_do, messages=[*said_before, *_needs(job, model=model, runtime=runtime)])
    model = model or float_artifact(job)
    sealed, said = evaluation_of(job, model=model, scored=False, runtime=runtime)
    if said == SCORED_BEFORE:
        said = f"{SCORED_BEFORE}, at {sealed.manifest.record.created[:19]} UTC; --force scores again"
    more = [sentence for sentence in (said, *sealed.manifest.notes, against_published(sealed)) if sentence]
    if section.split == "test":
        samples = counted(int(str(sealed.manifest.data["samples"])), "sample")
        submitted = f"submission of {samples}, without scores, for the nuScenes server: {sealed.file(SUBMISSION)}"
        return Outcome(sealed, metrics=dict(sealed.manifest.metrics), messages=[submitted, *more])
    split = job.of(as_made(model, profile=job.profile)).evaluation_split()
    if absent := absent_sentence(sealed, split=split):
        more.append(absent)
    if official:
        more.append(compared_with_devkit(sealed, split=split))
    return Outcome(
        sealed,
        tables=[overall_table(sealed), *executed_table(sealed), class_table(sealed)],
        metrics=dict(sealed.manifest.metrics),
        messages=[f"scored {model.path.name} by the rules of nuscenes-devkit", *more],
    )


def _needs(job: Job, *, model: Artifact | None, runtime: str | None) -> list[str]:
    """Memory and time of an evaluation; of a graph that a runtime runs, the time alone."""
    profile = job.stated if model is None else as_made(model, profile=job.stated)
    executed = None if model is None else runtime_stated(model, stated=runtime).get("runtime")
    took = hours(job.of(profile), frames=scoring_work(scored_samples(profile)), runtime=executed)
    return [*([] if executed else inference_memory(profile)), took]


def overall_table(evaluation: Artifact) -> Table:
    """NDS, mAP and the five errors in one row."""
    metrics = evaluation.manifest.metrics
    scenes, samples = (counted(int(str(evaluation.manifest.data[f"{noun}s"])), noun) for noun in ("scene", "sample"))
    return plain_table(
        "scores",
        title="Scores",
        headers=list(SCORES),
        rows=[[metrics[name] for name in SCORES]],
        notes=[f"{samples} of {scenes}, {sealed_rig(evaluation.manifest.profile).scored_as}"],
    )


def executed_table(evaluation: Artifact) -> list[Table]:
    """What ran against what was exported, of an evaluated graph with a paired interval; nothing else has one."""
    found: Any = evaluation.manifest.metrics.get(TO_TRAINED)
    if not found:
        return []
    name = f"executed by {evaluation.manifest.data['runtime']}"
    bounds = {"NDS_low": found["low"], "NDS_high": found["high"]}
    row = {"name": name, "than": "what was exported", "NDS_change": found["value"], **bounds}
    return [comparison_table([row], title="Executed")]


def class_table(evaluation: Artifact) -> Table:
    """AP and errors of every class."""
    scores = json.loads(evaluation.file(DETAILS).read_text(encoding="utf-8"))
    headers = ["class", "AP", "ATE", "ASE", "AOE", "AVE", "AAE"]
    rows = [[name, *(values[key] for key in headers[1:])] for name, values in scores["classes"].items()]
    return plain_table("classes", title="Classes", headers=headers, rows=rows)
