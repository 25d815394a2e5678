"""Distillation of the last stage (QD-BEV, Algorithm 1, phase 2): detection and view-guided losses together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipelines.assemble import Detector, device_of, float_detector
from pipelines.bit_plans import with_plan_found
from pipelines.quantized import load_quantized, quantized_cost, write_quantized
from pipelines.samples import load_split
from pipelines.stages import learning, settle_trained, training_key
from pipelines.store import Artifact, Store
from pipelines.training import Loss, Run, detection_loss, on_device, run_training, write_curve
from profiles import Profile
from profiles.distillation import DistillationProfile
from qdbev.detectors.bevformer.detector import Features
from qdbev.distillation import AutoWeight, FixedWeight, view_guided_loss
from qdbev.engine import sum_losses

KIND = "vgd"
Weight = AutoWeight | FixedWeight


def distil(
    profile: Profile,
    *,
    store: Store,
    parent: Artifact,
    distilled: bool = True,
    force: bool = False,
    progress: bool = False,
) -> tuple[Artifact, str]:
    """Train on from ``parent``, with the view-guided loss or, as its control, without.

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
    objective = {"objective": {name: value for name, value in section.content().items() if name != "schedule"}}
    key = training_key(
        kind,
        parent=parent,
        profile=profile,
        schedule=schedule,
        steps=schedule.steps,
        split=split,
        extra=objective if distilled else {},
    )
    if not force and (known := store.find(kind, key=key)):
        return known, f"{kind}: already trained"
    student = learning(load_quantized(parent, profile=profile, latent=True), profile=profile)
    weight = _weight(section)
    loss = detection_loss(student.detector, profile=profile)
    teacher_digest = None
    if distilled:
        teacher, source = float_detector(profile, store=store)
        teacher_digest = source.digest
        loss = distillation_loss(student.detector, teacher=teacher, weight=weight, profile=profile)
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
        extra_state=weight if distilled else None,
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
        metrics=metrics | ({"vgd_weight": weight.value} if distilled else {}),
        packages=dict(parent.manifest.packages),
        seconds={"training": result.seconds},
        replace=force,
    )
    weighed = f", weight of the view-guided loss {weight.value:.4g}" if distilled else ""
    return artifact, f"{kind}: {schedule.steps} steps in {result.seconds:.0f} s{weighed}"


def distillation_loss(student: Detector, *, teacher: Detector, weight: Weight, profile: Profile) -> Loss:
    """Detection losses plus the weighted view-guided loss; the teacher is frozen and rolls its own history.

    Args:
        student: The quantized detector.
        teacher: The float detector.
        weight: Fixed, or set by the first steps.
        profile: Its distillation section and device.
    """
    device = device_of(profile)
    teacher.requires_grad_(False).eval().to(device)
    compare = view_guided(profile.distillation)

    def loss(batch: Any, step: int) -> tuple[Tensor, Mapping[str, float | Tensor]]:
        ready = on_device(batch, device=device)
        with torch.no_grad():
            taught = teacher(ready["inputs"], ready["data_samples"], mode="features")
        losses, learned = student(ready["inputs"], ready["data_samples"], mode="loss_with_features")
        detection, terms = sum_losses(losses)
        guided, parts = compare(learned, taught)
        weighted = weight(guided, detection=detection)
        return detection + weighted, {**terms, **parts, "vgd_weighted": weighted.detach()}

    return loss


def view_guided(section: DistillationProfile) -> Callable[[Features, Features], tuple[Tensor, dict[str, Tensor]]]:
    """The objective of a profile: of student's and teacher's features, the loss and its parts."""

    def compare(learned: Features, taught: Features) -> tuple[Tensor, dict[str, Tensor]]:
        return view_guided_loss(
            learned.image,
            teacher_image=taught.image,
            student_bev=learned.bev_BQC,
            teacher_bev=taught.bev_BQC,
            bev_mask_BNQD=taught.bev_mask_BNQD,
            temperature=section.temperature,
            image_axis=section.image_axis,
            bev_axis=section.bev_axis,
            pointwise=section.pointwise,
            normaliser=section.normaliser,
            batch=section.batch,
            mask=section.mask,
            combine=section.combine,
            detach=section.detach,
        )

    return compare


def _weight(section: DistillationProfile) -> Weight:
    if section.weight == "auto":
        return AutoWeight(share=section.auto_share, steps=section.auto_steps)
    return FixedWeight(section.weight)
