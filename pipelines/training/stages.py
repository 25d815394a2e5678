"""The stages of progressive QAT (QD-BEV, Algorithm 1, phase 1), each trained from the one before."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from pipelines.assembly.detector import Detector
from pipelines.assembly.job import Job
from pipelines.assembly.quantized import (
    Quantized,
    quantized_cost,
    write_quantized,
)
from pipelines.assembly.samples import notes_on
from pipelines.calibration.calibrated import calibrated
from pipelines.calibration.methods import calibration_row
from pipelines.lineage.keys import training_key
from pipelines.lineage.kinds import QAT
from pipelines.store.artifacts import Artifact
from pipelines.store.making import Content, Made, made
from pipelines.training.records import write_records
from pipelines.training.run import Loss, Training, detection_loss, run_training
from pipelines.training.starting import live_norms, started
from profiles import Profile
from profiles.sections.schedule import PARTS, ProgressiveSchedule, stage_parts
from profiles.wording import counted
from qdbev.engine import TrainResult
from qdbev.quantization import hold_ranges, settle_ranges


@dataclass(frozen=True)
class Stage:
    """One stage of progressive training."""

    number: int
    """From 1."""
    groups: tuple[tuple[str, ...], ...]
    """The parts that each of all stages adds."""

    @property
    def added(self) -> tuple[str, ...]:
        """The parts that this one adds."""
        return self.groups[self.number - 1]

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts that are quantized in it."""
        return tuple(part for group in self.groups[: self.number] for part in group)

    @property
    def place(self) -> dict[str, Any]:
        """What a key and a manifest say of it."""
        return {"stage": self.number, "stages": len(self.groups), "parts": self.parts}

    @property
    def label(self) -> str:
        """In words, such as ``stage 2/4 (+neck)``."""
        return f"stage {self.number}/{len(self.groups)} (+{'+'.join(self.added)})"

    def steps(self, profile: Profile) -> int:
        """Its optimiser steps."""
        return profile.qat.steps(self.added)

    def schedule(self, profile: Profile) -> ProgressiveSchedule:
        """Its schedule."""
        return profile.qat.of_stage(self.added)


def trained_stages(
    job: Job, *, stages: int | None = None, on_stage: Callable[[Artifact], object] | None = None
) -> tuple[Artifact, list[str]]:
    """All stages of a profile, each sealed; what is missing before them is made first.

    Args:
        job: Its section ``qat`` says how; where it forces, stages are trained again from the calibration that is there.
        stages: 1 to 4, in place of the profile's.
        on_stage: Called with the calibration and each stage as it is sealed or found.

    Returns:
        The last stage, and a sentence about each.
    """
    groups = stage_parts(stages or job.profile.qat.stages, without=job.profile.model.empty_parts)
    artifact, message = calibrated(replace(job, force=False))
    messages = [message, *left_behind(job.profile)]
    if on_stage is not None:
        on_stage(artifact)
    for number in range(1, len(groups) + 1):
        artifact, message = run_stage(job, stage=Stage(number, tuple(groups)), parent=artifact)
        messages.append(message)
        if on_stage is not None:
            on_stage(artifact)
    return artifact, messages


def left_behind(profile: Profile) -> list[str]:
    """A sentence where the stages choose anew what calibration has learned."""
    section, method = profile.quantization, profile.calibration.method
    anew = section.training_observer is not None or section.training_rounding == "compensated"
    if not anew or not calibration_row(method).rounds:
        return []
    keep = "--set quantization.training_observer=null --set quantization.training_rounding=nearest"
    return [
        f"each stage chooses ranges and roundings anew, so those of {method} are not trained from: {keep} keeps them"
    ]


def run_stage(job: Job, *, stage: Stage, parent: Artifact) -> Made:
    """One stage: the parts of all stages up to it on, trained for the steps of the parts that it adds.

    Args:
        job: What is wanted.
        stage: Which.
        parent: The stage before, or the calibration.
    """
    key = training_key(
        QAT,
        parent=parent.digest,
        profile=job.profile,
        schedule=stage.schedule(job.profile),
        steps=stage.steps(job.profile),
        data=job.split("train").digest,
        extra=stage.place,
    )
    make = partial(_train, job, stage=stage, parent=parent, key=key)
    return made(job, QAT, key=key, make=make, known=f"{stage.label}: already trained")


def _train(job: Job, *, stage: Stage, parent: Artifact, key: str) -> Content:
    """Train a stage from the artifact before it."""
    profile, split, schedule = job.profile, job.split("train"), stage.schedule(job.profile)
    quantized, rounding = started(parent, job=job, parts=stage.parts, added=stage.added, key=key)
    detector = quantized.detector
    norms = live_norms(quantized, job=job, added=stage.added) if schedule.batch_norm == "live" else None
    training = Training(
        schedule=schedule,
        steps=stage.steps(profile),
        kind=QAT,
        key=key,
        label=f"qat {stage.label}",
        part_multipliers=dict.fromkeys(_paths_beside(detector, stage.added), schedule.other_multiplier),
        range_multiplier=schedule.range_multiplier,
    )
    loss = by_step(detection_loss(detector, job=job), quantized=quantized, added=stage.added, schedule=schedule)
    result = run_training(detector, job=job, training=training, loss=loss, split=split)
    quantized.switch_on(stage.parts)
    settle_trained(quantized, result=result)
    if norms is not None:
        norms.fold()
    content = trained_content(quantized, job=job, parent=parent, result=result, training=training.label)
    return replace(
        content,
        data={**content.data, **stage.place, "parts": list(stage.parts)},
        message="; ".join(
            filter(None, [f"{stage.label}: {counted(training.steps, 'step')} in {result.seconds:.0f} s", rounding])
        ),
    )


def trained_content(quantized: Quantized, *, job: Job, parent: Artifact, result: TrainResult, training: str) -> Content:
    """What the artifact of any training of a quantized detector holds.

    Args:
        quantized: Trained.
        job: What was wanted.
        parent: What it was trained from.
        result: Of the engine.
        training: Which training it was, in words.
    """
    profile, split = job.profile, job.split("train")
    trainable = int(str(parent.manifest.metrics["trainable"]))
    cost = quantized_cost(quantized, profile=profile, split=split, trainable=trainable)

    def write(folder: Path) -> None:
        write_quantized(folder, quantized=quantized, profile=profile)
        write_records(folder, result=result, training=training)

    return Content(
        write,
        parents={"start": parent.digest},
        data={"train": split.digest},
        metrics=cost | {"trainable": trainable, "steps": result.steps, "skipped_steps": len(result.skipped)},
        packages=dict(parent.manifest.packages),
        notes=notes_on(split),
        seconds={"training": result.seconds},
    )


def _paths_beside(detector: Detector, added: Sequence[str]) -> list[str]:
    """Paths of all parts but those that a stage adds."""
    paths = detector.parts()
    return [path for part in PARTS if part not in added for path in paths[part]]


def by_step(loss: Loss, *, quantized: Quantized, added: Sequence[str], schedule: ProgressiveSchedule) -> Loss:
    """The loss of a stage whose quantizers depend on the step: those added wait, and ranges stop.

    What is on is a function of the step alone, in every process, so a run that was stopped goes on as it would have.

    Args:
        loss: Of the detector as it is switched.
        quantized: The detector, its learned ranges parameters already.
        added: The parts of this stage.
        schedule: Its ``quantizer_delay`` and ``freeze_ranges_after``.
    """
    delay, last = schedule.quantizer_delay, schedule.freeze_ranges_after
    if not delay and last is None:
        return loss
    parts = quantized.parts
    waiting = tuple(part for part in parts if part not in added)

    def stepped(batch: Any, step: int) -> tuple[Tensor, Mapping[str, float | Tensor]]:
        quantized.switch_on(waiting if step < delay else parts)
        hold_ranges(quantized.detector, held=last is not None and step >= last)
        return loss(batch, step)

    return stepped


def settle_trained(quantized: Quantized, *, result: TrainResult) -> None:
    """Leave the averaged weights, where an average was kept, and fixed ranges."""
    if result.ema_state is not None:
        quantized.detector.load_state_dict(result.ema_state)
    settle_ranges(quantized.detector)
