"""How long a command would take, reckoned from what the newest evaluation of its model took here for a frame."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.assembly.job import Job
from pipelines.costs.epochs import sample_count
from pipelines.lineage.kinds import EVALUATION, FRAME_S
from pipelines.reporting.steps import duration
from pipelines.store.artifacts import Artifact
from pipelines.store.integrity import reading_data
from profiles import Profile


def hours(job: Job, *, frames: float, what: str = "all of it") -> str:
    """A sentence for a dry run: the time, and what it stands on; or that nothing is known.

    Args:
        job: Its store and the model of its profile.
        frames: The work (``pipelines.costs.work``).
        what: What the time is for.
    """
    evaluation = _newest(job)
    if evaluation is None:
        return "no time: nothing of this model was run here yet"
    frame_s = evaluation.manifest.record.seconds[FRAME_S]
    return f"time: about {duration(frames * frame_s)} for {what}; {evaluation.path.name} took {frame_s:.2g} s a frame"


def scored_samples(profile: Profile) -> int:
    """Samples of the split that is evaluated, told without reading them."""
    with reading_data():
        return sample_count(profile.data, split="train" if profile.evaluation.split.endswith("train") else "val")


def _newest(job: Job) -> Artifact | None:
    """The evaluation that was sealed last with the time of a frame, of a model of the same structure, run by torch."""
    for artifact in reversed(job.store.list()):
        manifest = artifact.manifest
        timed = manifest.kind == EVALUATION and FRAME_S in manifest.record.seconds and "runtime" not in manifest.data
        if timed and _structure(manifest.profile) == _structure(job.stated.content()):
            return artifact
    return None


def _structure(profile: Mapping[str, Any]) -> dict[str, Any]:
    return {**profile["model"], "weights": None}
