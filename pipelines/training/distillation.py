"""Distillation of the last stage (QD-BEV, Algorithm 1, phase 2): detection loss and the objectives of a profile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor

from pipelines.assembly.detector import Detector
from pipelines.assembly.job import Job
from pipelines.assembly.quantized import Quantized, learn_ranges_of, load_quantized
from pipelines.assembly.weights import float_detector
from pipelines.lineage.keys import training_key
from pipelines.lineage.kinds import QAT_LONGER, VGD
from pipelines.store.artifacts import Artifact
from pipelines.store.making import Content, Made, made
from pipelines.training.objectives import Objective, given_by, objectives, refuse_missing, weighed
from pipelines.training.run import Loss, Training, detection_loss, on_device, run_training
from pipelines.training.stages import settle_trained, trained_content
from pipelines.training.teacher import Teacher, teacher_of
from profiles.wording import counted
from qdbev.distillation.weight import Weights
from qdbev.engine import ExtraState, TrainResult, sum_losses


def distil(job: Job, *, parent: Artifact, distilled: bool = True) -> Made:
    """Train on from ``parent``, with the objectives of a profile or, as their control, without.

    Args:
        job: Its section ``distillation`` says how.
        parent: The last stage of progressive QAT.
        distilled: False trains the same steps on the detection loss alone.
    """
    profile, section = job.profile, job.profile.distillation
    kind = VGD if distilled else QAT_LONGER
    settings = {"objective": {name: value for name, value in section.content().items() if name != "schedule"}}
    key = training_key(
        kind,
        parent=parent.digest,
        profile=profile,
        schedule=section.schedule,
        steps=section.schedule.steps,
        data=job.split("train").digest,
        extra=settings if distilled else {},
    )
    make = partial(_distil if distilled else _train_on, job, parent=parent, key=key)
    return made(job, kind, key=key, make=make, known=f"{kind}: already trained")


def _distil(job: Job, *, parent: Artifact, key: str) -> Content:
    """Train on with the float detector as teacher."""
    profile, student = job.profile, _student(job, parent=parent)
    detector, source = float_detector(job)
    teacher, sentence = teacher_of(
        profile, detector=detector, digest=source.digest, split=job.split("train"), device=job.device
    )
    wanted = objectives(profile)
    weights = Weights({objective.name: objective.weight for objective in wanted})
    loss = distillation_loss(student.detector, teacher=teacher, wanted=wanted, job=job)
    result = _train(student, job=job, kind=VGD, key=key, loss=loss, extra_state=weights)
    content = trained_content(student, job=job, parent=parent, result=result, training=VGD)
    weighted = "".join(f", weight of {name} {value:.4g}" for name, value in weights.values.items())
    message = f"{VGD}: {counted(job.profile.distillation.schedule.steps, 'step')} in {result.seconds:.0f} s{weighted}"
    return replace(
        content,
        parents={**content.parents, "teacher": source.digest},
        metrics={**content.metrics, **{f"{name}_weight": value for name, value in weights.values.items()}},
        message=f"{message}; {sentence}" if sentence else message,
    )


def _train_on(job: Job, *, parent: Artifact, key: str) -> Content:
    """Train on without a teacher: the control."""
    student = _student(job, parent=parent)
    loss = detection_loss(student.detector, job=job)
    result = _train(student, job=job, kind=QAT_LONGER, key=key, loss=loss)
    content = trained_content(student, job=job, parent=parent, result=result, training=QAT_LONGER)
    return replace(
        content,
        message=f"{QAT_LONGER}: {counted(job.profile.distillation.schedule.steps, 'step')} in {result.seconds:.0f} s",
    )


def _student(job: Job, *, parent: Artifact) -> Quantized:
    """The quantized detector, its ranges parameters where the profile wants them learned."""
    student = load_quantized(parent, profile=job.profile, latent=True)
    learn_ranges_of(student, section=job.profile.quantization)
    return student


def _train(
    student: Quantized, *, job: Job, kind: str, key: str, loss: Loss, extra_state: ExtraState | None = None
) -> TrainResult:
    """The training itself; the student is left with fixed ranges."""
    schedule = job.profile.distillation.schedule
    training = Training(
        schedule=schedule,
        steps=schedule.steps,
        kind=kind,
        key=key,
        label=kind,
        range_multiplier=schedule.range_multiplier,
    )
    result = run_training(
        student.detector, job=job, training=training, loss=loss, split=job.split("train"), extra_state=extra_state
    )
    settle_trained(student, result=result)
    return result


def distillation_loss(student: Detector, *, teacher: Teacher, wanted: Sequence[Objective], job: Job) -> Loss:
    """Detection losses plus the weighted objectives; the teacher is frozen and rolls its own history.

    Args:
        student: The quantized detector.
        teacher: The float detector, live or kept.
        wanted: The objectives; their weights are fixed, or set by the first steps.
        job: Its distillation section and device.
    """
    profile = job.profile

    def loss(batch: Any, step: int) -> tuple[Tensor, Mapping[str, float | Tensor]]:
        ready = on_device(batch, device=job.device)
        taught = teacher(ready["inputs"], ready["data_samples"])
        losses, learned = student(ready["inputs"], ready["data_samples"], mode="loss_with_features")
        refuse_missing(profile.distillation, given=given_by(learned), whose=f"the detector {profile.model.name}")
        detection, terms = sum_losses(losses)
        total, added = weighed(wanted, learned=learned, teacher=taught, detection=detection)
        return total, {**terms, **added}

    return loss
