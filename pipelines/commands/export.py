"""export: a quantized detector as files that other programs read."""

from __future__ import annotations

from pathlib import Path

from pipelines.assembly.job import Job
from pipelines.assembly.quantized import load_quantized
from pipelines.exporting.explained import explained
from pipelines.exporting.onnx import GATE_FRAMES, onnx_export, refuse_unexportable
from pipelines.exporting.packed import packed_export, refuse_unpackable, same_as
from pipelines.exporting.sizes import bytes_table
from pipelines.lineage.models import as_made, furthest
from pipelines.reporting.outcome import Outcome
from pipelines.store.artifacts import Artifact, MissingArtifact
from pipelines.store.copies import copy_out, refuse_occupied
from profiles import Profile


def packed(
    job: Job,
    *,
    artifact: str | None = None,
    out: Path | None = None,
    check: Path | None = None,
    base_model: str | None = None,
    dry_run: bool = False,
) -> Outcome:
    """Pack a quantized detector.

    Args:
        job: Where, and whether what is there is made again.
        artifact: What to pack, as the store names it; None takes the furthest stage of the profile.
        out: A folder for a copy; None leaves the export in the store alone.
        check: Write nothing, and compare this folder with the artifact.
        base_model: What hubs call the float model; None takes the name of the model.
        dry_run: Say what would be done.

    Raises:
        MissingArtifact: There is no such artifact.
        ValueError: It is not quantized, or ``out`` is occupied.
        DamagedArtifact: What is checked is damaged, or another model.
    """
    model = _model(job, artifact=artifact)
    refuse_unpackable(model)
    refuse_occupied(out, replace=job.force)
    if check is not None and out is not None:
        raise ValueError("--check writes nothing; give it or --out")
    if dry_run:
        return Outcome(would_do=_steps(model, out=out, check=check))
    job = job.of(_profile_of(model, job=job))
    if check is not None:
        return Outcome(messages=[f"{check}: {same_as(check, job=job, model=model)}"])
    sealed, said = packed_export(job, model=model, base_model=base_model)
    return Outcome(
        sealed,
        tables=[bytes_table(sealed)],
        metrics=dict(sealed.manifest.metrics),
        messages=[said, *_copied(sealed, job=job, to=out)],
    )


def _steps(model: Artifact, *, out: Path | None, check: Path | None) -> list[str]:
    """What would be done, a sentence a step."""
    if check is not None:
        return [f"compare {check} with {model.path.name}, every tensor"]
    copying = [] if out is None else [f"copy it to {out}"]
    return [f"pack {model.path.name}, read it back and compare every tensor", *copying]


def onnx(
    job: Job,
    *,
    artifact: str | None = None,
    target: str = "ort",
    strip_metadata: bool = False,
    explain: bool = False,
    out: Path | None = None,
    dry_run: bool = False,
) -> Outcome:
    """Write a quantized detector as one ONNX graph, and run it.

    Args:
        job: Where, and whether what is there is made again.
        artifact: What to export, as the store names it; None takes the furthest stage of the profile.
        target: Who runs it.
        strip_metadata: Say nothing of the detector in the file.
        explain: Write nothing; say what the target makes of each layer.
        out: A folder for a copy; None leaves the export in the store alone.
        dry_run: Say what would be done.

    Raises:
        MissingArtifact: There is no such artifact.
        ValueError: It cannot be exported, or ``out`` is occupied.
        GateFailed: The graph does not compute what the detector does.
    """
    model = _model(job, artifact=artifact)
    job = job.of(_profile_of(model, job=job))
    if explain:
        if out is not None or strip_metadata:
            raise ValueError("--explain writes nothing; leave out --out and --strip-metadata")
        refuse_unpackable(model)
        return Outcome(tables=[explained(load_quantized(model, profile=job.profile), target=target)])
    refuse_unexportable(model, profile=job.profile, target=target)
    refuse_occupied(out, replace=job.force)
    if dry_run:
        steps = [f"write {model.path.name} as a graph for {target}", f"run {GATE_FRAMES} frames and compare every tap"]
        return Outcome(would_do=[*steps, *([f"copy it to {out}"] if out else [])])
    sealed, said = onnx_export(job, model=model, target=target, strip_metadata=strip_metadata)
    return Outcome(sealed, metrics=dict(sealed.manifest.metrics), messages=[said, *_copied(sealed, job=job, to=out)])


def _copied(sealed: Artifact, *, job: Job, to: Path | None) -> list[str]:
    """Copy an export out of the store, where a folder is named, and say so."""
    return [] if to is None else [f"copied to {copy_out(sealed, to=to, replace=job.force)}"]


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
