"""Distillation of the last stage (QD-BEV, Algorithm 1, phase 2): detection loss and the objectives of a profile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from pipelines.assembly.detector import Detector, device_of
from pipelines.assembly.quantized import load_quantized, quantized_cost, write_quantized
from pipelines.assembly.samples import load_split, notes_on_motion
from pipelines.assembly.weights import float_detector
from pipelines.lineage.bit_plan import with_plan_found
from pipelines.store.artifacts import Artifact, Store
from pipelines.training.objectives import Objective, given_by, objectives, refuse_missing, weighed
from pipelines.training.run import Loss, Run, detection_loss, on_device, run_training, write_curve
from pipelines.training.stages import learning, settle_trained, training_key
from pipelines.training.teacher import Teacher, teacher_of
from profiles import Profile
from qdbev.distillation.weight import Weights
from qdbev.engine import sum_losses

KIND = "vgd"


def distil(
    profile: Profile,
    *,
    store: Store,
    parent: Artifact,
    distilled: bool = True,
    force: bool = False,
    progress: bool = False,
) -> tuple[Artifact, str]:
    """Train on from ``parent``, with the objectives of a profile or, as their control, without.

    Args:
        profile: See ``run``.
        store: Where the artifact goes.
        parent: The last stage of progressive QAT.
        distilled: False trains the same steps on the detection loss alone.
        force: Train again even if sealed.
        progress: Show a bar.

    Returns:
        The sealed artifact, and a sentence about it.
    """
    profile = with_plan_found(profile, store=store)
    section = profile.distillation
    schedule = section.schedule
    kind = KIND if distilled else "qat-longer"
    split = load_split(profile.data, name="train", progress=progress)
    settings = {"objective": {name: value for name, value in section.content().items() if name != "schedule"}}
    key = training_key(
        kind,
        parent=parent,
        profile=profile,
        schedule=schedule,
        steps=schedule.steps,
        split=split,
        extra=settings if distilled else {},
    )
    if not force and (known := store.find(kind, key=key)):
        return known, f"{kind}: already trained"
    student = learning(load_quantized(parent, profile=profile, latent=True), profile=profile)
    loss = detection_loss(student.detector, profile=profile)
    wanted = objectives(profile) if distilled else []
    weights = Weights({one.name: one.weight for one in wanted})
    teacher_digest, kept = None, ""
    if distilled:
        detector, source = float_detector(profile, store=store)
        teacher_digest = source.digest
        teacher, kept = teacher_of(
            profile, detector=detector, digest=source.digest, split=split, device=device_of(profile)
        )
        loss = distillation_loss(student.detector, teacher=teacher, wanted=wanted, profile=profile)
    result = run_training(
        student.detector,
        loss=loss,
        split=split,
        plan=Run(
            profile=profile,
            schedule=schedule,
            steps=schedule.steps,
            key=key,
            scratch=store.scratch(kind, key=key),
            range_multiplier=schedule.range_multiplier,
        ),
        label=kind,
        progress=progress,
        freeze_batchnorm=True,
        extra_state=weights if distilled else None,
    )
    settle_trained(student, result=result)
    trainable = int(str(parent.manifest.metrics["trainable"]))
    metrics = quantized_cost(student, profile=profile, split=split, trainable=trainable)
    metrics |= {"trainable": trainable, "steps": result.steps, "skipped_steps": len(result.skipped)}

    def write(folder: Path) -> None:
        write_quantized(folder, quantized=student, profile=profile)
        write_curve(folder, result=result)

    artifact = store.seal(
        kind,
        profile=profile,
        key=key,
        write=write,
        parents={"start": parent.digest} | ({"teacher": teacher_digest} if teacher_digest else {}),
        data={"train": split.digest},
        metrics=metrics | {f"{name}_weight": value for name, value in weights.values.items()},
        packages=dict(parent.manifest.packages),
        notes=notes_on_motion(split),
        seconds={"training": result.seconds},
        replace=force,
    )
    weighted = "".join(f", weight of {name} {value:.4g}" for name, value in weights.values.items())
    message = f"{kind}: {schedule.steps} steps in {result.seconds:.0f} s{weighted}"
    return artifact, f"{message}; {kept}" if kept else message


def distillation_loss(student: Detector, *, teacher: Teacher, wanted: Sequence[Objective], profile: Profile) -> Loss:
    """Detection losses plus the weighted objectives; the teacher is frozen and rolls its own history.

    Args:
        student: The quantized detector.
        teacher: The float detector, live or kept.
        wanted: The objectives; their weights are fixed, or set by the first steps.
        profile: Its distillation section and device.
    """
    device = device_of(profile)

    def loss(batch: Any, step: int) -> tuple[Tensor, Mapping[str, float | Tensor]]:
        ready = on_device(batch, device=device)
        taught = teacher(ready["inputs"], ready["data_samples"])
        losses, learned = student(ready["inputs"], ready["data_samples"], mode="loss_with_features")
        refuse_missing(profile.distillation, given=given_by(learned), whose=f"the detector {profile.model.name}")
        detection, terms = sum_losses(losses)
        total, added = weighed(wanted, learned=learned, teacher=taught, detection=detection)
        return total, {**terms, **added}

    return loss
