"""export: a quantized detector as files that other programs read."""

from __future__ import annotations

from pathlib import Path

from pipelines.assembly.job import Job
from pipelines.exporting.packed import packed_export, refuse_unpackable
from pipelines.lineage.models import as_made, furthest
from pipelines.reporting.outcome import Outcome
from pipelines.store.artifacts import Artifact, MissingArtifact
from pipelines.store.copies import copy_out, refuse_occupied
from profiles import Profile


def packed(job: Job, *, artifact: str | None = None, out: Path | None = None, dry_run: bool = False) -> Outcome:
    """Pack a quantized detector.

    Args:
        job: Where, and whether what is there is made again.
        artifact: What to pack, as the store names it; None takes the furthest stage of the profile.
        out: A folder for a copy; None leaves the export in the store alone.
        dry_run: Say what would be done.

    Raises:
        MissingArtifact: There is no such artifact.
        ValueError: It is not quantized, or ``out`` is occupied.
    """
    model = _model(job, artifact=artifact)
    refuse_unpackable(model)
    refuse_occupied(out, replace=job.force)
    if dry_run:
        steps = [f"pack {model.path.name}, read it back and compare every tensor"]
        return Outcome(would_do=[*steps, *([f"copy it to {out}"] if out else [])])
    sealed, said = packed_export(job.of(_profile_of(model, job=job)), model=model)
    copied = [] if out is None else [f"copied to {copy_out(sealed, to=out, replace=job.force)}"]
    return Outcome(sealed, metrics=dict(sealed.manifest.metrics), messages=[said, *copied])


def _model(job: Job, *, artifact: str | None) -> Artifact:
    model = job.store.open(artifact) if artifact else furthest(job.stated, store=job.store)
    if model is None:
        wanted = f"{job.stated.name}-{job.stated.model.name}"
        raise MissingArtifact(
            f"there is no quantized {wanted} in {job.store.root}; `qdbev calibrate` or `qdbev compress` makes one"
        )
    return model


def _profile_of(model: Artifact, *, job: Job) -> Profile:
    """The profile that a model was made with, under its name."""
    name = str(model.manifest.profile["name"])
    return as_made(model, profile=job.stated).model_copy(update={"name": name})
