"""The training of float weights: from scratch, or on from others, as the float control of a compression does."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipelines.assembly.detector import Detector, build_detector
from pipelines.assembly.job import Job
from pipelines.assembly.samples import Split, notes_on, with_more_seeds
from pipelines.assembly.strict_loading import load_strictly
from pipelines.assembly.tensors import read_tensors, write_tensors
from pipelines.assembly.weights import float_artifact, package_versions
from pipelines.lineage.float_control import controls_of_stages
from pipelines.lineage.keys import float_key
from pipelines.lineage.kinds import FLOAT, WEIGHTS
from pipelines.store import processes
from pipelines.store.artifacts import Artifact
from pipelines.store.making import Content, Made, made
from pipelines.training.image_backbone import backbone_source, load_backbone
from pipelines.training.records import write_records
from pipelines.training.run import Training, detection_loss, run_training
from profiles import Profile
from profiles.sections.schedule import PARTS, stage_parts
from qdbev.engine.moment import TrainResult


def float_trained(job: Job, *, label: str = "train-float") -> Made:
    """The sealed float weights of a profile's ``float_training``, trained where they are missing.

    Args:
        job: Its sections model, data and float_training and its seed decide the result.
        label: Text of the progress bar.
    """
    profile, schedule = job.profile, job.profile.float_training
    split = with_more_seeds(job.split("train"), data=profile.data, progress=job.progress)
    start, backbone = _start(job), backbone_source(job)
    key = float_key(
        schedule,
        settings=profile.content(),
        start=start.digest if start else None,
        split=split.digest,
        processes=processes.count(),
        backbone=backbone.digest if backbone else None,
    )
    make = partial(_train, job, split=split, start=start, backbone=backbone, key=key, label=label)
    return made(job, FLOAT, key=key, make=make, known="already trained; --force trains again")


def trained_on(job: Job) -> Made:
    """The float control of a compression: the profile's weights trained on in every step as QAT and distillation train.

    Args:
        job: An artifact for each stage is sealed; the last one is given.

    Raises:
        ValueError: Neither the stages nor the distillation have a step.
    """
    trainings = controls_of(job.profile)
    # a first training without `start_from` starts from scratch
    sealed = Made(float_artifact(job), "") if job.profile.model.weights is None else None
    for number, profile in enumerate(trainings, start=1):
        if sealed is not None:
            schedule = profile.float_training.model_copy(update={"start_from": sealed.artifact.digest})
            profile = profile.model_copy(update={"float_training": schedule})
        label = f"train-float {number}/{len(trainings)}" if len(trainings) > 1 else "train-float"
        sealed = float_trained(job.of(profile), label=label)
    assert sealed is not None
    return sealed


def controls_of(profile: Profile) -> list[Profile]:
    """A profile for each training of the float control; raises what ``trained_on`` does."""
    groups = stage_parts(profile.qat.stages, without=profile.model.empty_parts)
    trainings = controls_of_stages(profile, groups=groups)
    if not trainings:
        raise ValueError("the profile's stages and distillation have no steps, so there is nothing to train on for")
    return trainings


def _train(
    job: Job, *, split: Split, start: Artifact | None, backbone: Artifact | None, key: str, label: str
) -> Content:
    """Train, and keep the averaged weights where an average was kept; heads that only training uses are dropped."""
    profile, schedule = job.profile, job.profile.float_training
    torch.manual_seed(profile.seed)
    detector = build_detector(profile.model, rig=profile.data.rig, auxiliary=schedule.auxiliary)
    if start is not None:
        load_start(detector, state=read_tensors(start.file(WEIGHTS)), origin=start.path.name)
    notes = [load_backbone(detector, source=backbone, paths=profile.model.backbone_paths)] if backbone else []
    paths = detector.parts()
    beside = [path for part in PARTS if part not in (schedule.parts or PARTS) for path in paths[part]]
    training = Training(
        schedule=schedule,
        steps=schedule.steps,
        kind=FLOAT,
        key=key,
        label=label,
        part_multipliers=dict.fromkeys(beside, schedule.other_multiplier),
        freeze_batchnorm=schedule.freeze_batchnorm,
    )
    alone = round(schedule.steps * schedule.single_frame_share)
    loss = detection_loss(detector, job=job, single_frame_steps=alone)
    result = run_training(detector, job=job, training=training, loss=loss, split=split)
    parents = {name: source.digest for name, source in (("start", start), ("backbone", backbone)) if source}
    state = result.ema_state or detector.state_dict()
    return _content(state, split=split, parents=parents, notes=notes, result=result)


def _content(
    state: Mapping[str, Tensor], *, split: Split, parents: dict[str, str], notes: list[str], result: TrainResult
) -> Content:
    weights = {name: value for name, value in state.items() if not name.startswith("auxiliary.")}

    def write(folder: Path) -> None:
        write_tensors(folder / WEIGHTS, weights)
        write_records(folder, result=result, training=FLOAT)

    splits = (split, *split.further)
    return Content(
        write,
        parents=parents,
        data={
            "processes": processes.count(),
            "train": split.digest,
            "train_scenes": sum(len(part.scenes) for part in splits),
            "train_samples": sum(len(part.samples) for part in splits),
        },
        metrics=_metrics(result),
        packages=package_versions(),
        notes=(*notes_on(split), *notes),
        seconds={"training": result.seconds},
        message=f"trained in {result.seconds / 60:.1f} minutes",
    )


def load_start(detector: Detector, *, state: Mapping[str, Tensor], origin: str) -> None:
    """Load all weights but the loss's own: the auxiliary heads and ``code_weights`` stay as the profile has them."""
    of_the_loss = {
        name: value
        for name, value in detector.state_dict().items()
        if name.startswith("auxiliary.") or name.endswith("code_weights")
    }
    load_strictly(detector, state={**state, **of_the_loss}, origin=origin)


def _start(job: Job) -> Artifact | None:
    """The artifact the profile's training starts from, in this store."""
    source = job.profile.float_training.start_from
    if source is None:
        return None
    model = job.profile.model.model_copy(update={"weights": source})
    return job.store.adopt(float_artifact(job.of(job.profile.model_copy(update={"model": model}))))


def _metrics(result: TrainResult) -> dict[str, Any]:
    last = result.curve[-1] if result.curve else {}
    return {"steps": result.steps, "skipped_steps": len(result.skipped), "final_loss": last.get("loss")}
