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


def hours(job: Job, *, frames: float | None, what: str = "all of it", runtime: str | None = None) -> str:
    """A sentence for a dry run: the time, and what it stands on; or that nothing is known.

    Args:
        job: Its store and the model of its profile.
        frames: The work (``pipelines.costs.work``); None where it is not known in frames.
        what: What the time is for.
        runtime: What runs the model's graph; None is torch.
    """
    if frames is None:
        return f"no time: what {what} takes was not measured"
    evaluation = _newest(job, runtime=runtime)
    if evaluation is None:
        return f"no time: nothing of this model was run here yet{f' by {runtime}' if runtime else ''}"
    frame_s = evaluation.manifest.record.seconds[FRAME_S]
    return f"time: about {duration(frames * frame_s)} for {what}; {evaluation.path.name} took {frame_s:.2g} s a frame"


def scored_samples(profile: Profile) -> int:
    """Samples of the split that is evaluated, told without reading them."""
    with reading_data():
        return sample_count(profile.data, split="train" if profile.evaluation.split.endswith("train") else "val")


def scene_samples(profile: Profile, *, scenes: int) -> int:
    """Samples of so many scenes of training, told without reading them."""
    with reading_data():
        return sample_count(profile.data.model_copy(update={"train_scenes": scenes}), split="train")


def _newest(job: Job, *, runtime: str | None) -> Artifact | None:
    """The evaluation that was sealed last with the time of a frame, of a model of the same structure, run alike."""
    for artifact in reversed(job.store.list()):
        manifest = artifact.manifest
        timed = manifest.kind == EVALUATION and FRAME_S in manifest.record.seconds
        if (
            timed
            and manifest.data.get("runtime") == runtime
            and _structure(manifest.profile) == _structure(job.stated.content())
        ):
            return artifact
    return None


def _structure(profile: Mapping[str, Any]) -> dict[str, Any]:
    return {**profile["model"], "weights": None}
