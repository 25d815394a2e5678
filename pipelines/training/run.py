"""One training of any stage: a schedule of the profile, a split and a loss, handed to the engine."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pipelines.assembly.detector import inputs_on
from pipelines.assembly.job import Job
from pipelines.assembly.samples import Split, training_dataset
from pipelines.store.events import events_of
from pipelines.store.integrity import UnusableInput, fetched
from profiles.sections.schedule import Optimisation
from qdbev.data.queues.batches import Frames, Slot, TrainingOrder, load_slots
from qdbev.engine import (
    DamagedState,
    ExtraState,
    OptimiserSettings,
    ScheduleSettings,
    TrainResult,
    sum_losses,
    train,
)
from qdbev.quantization import RANGE_PARAMETERS, range_penalty

Precision = Literal["no", "bf16", "fp16"]
Loss = Callable[[Any, int], tuple[Tensor, Mapping[str, float | Tensor]]]
_LOG = logging.getLogger(__name__)
_PRECISIONS: dict[str, Precision] = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


@dataclass(frozen=True)
class Training:
    """Which training this is."""

    schedule: Optimisation
    """Its schedule."""
    steps: int
    """Optimiser steps."""
    kind: str
    """Kind of the artifact in the making."""
    key: str
    """Its key; resume state of another key is not taken up."""
    label: str
    """Text of the progress bar."""
    part_multipliers: Mapping[str, float] = field(default_factory=dict)
    """Factors on the learning rate by path in the model, besides the schedule's own on the backbone."""
    range_multiplier: float = 1.0
    """Factor on the learning rate of learned ranges, where the model has any."""
    freeze_batchnorm: bool = True
    """Hold batch norm in evaluation mode."""


def warn_of_slow_precision(schedule: Optimisation, *, device: torch.device) -> None:
    """Say where a step takes many times as long as it must: bf16 on a CPU that does not compute in it."""
    if schedule.precision == "bf16" and device.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        _LOG.warning(
            "this CPU does not compute in bf16, so each step takes about ten times as long as in fp32; "
            "stop, and set precision=fp32 in the section of this training"
        )


def run_training(
    model: nn.Module,
    *,
    job: Job,
    training: Training,
    loss: Loss,
    split: Split,
    extra_state: ExtraState | None = None,
) -> TrainResult:
    """Train ``model`` in place on ``split``.

    Args:
        model: What trains.
        job: Its profile's model, data, seed, device and trackers are read; its store has the resume state and events.
        training: Schedule, steps, kind and key.
        loss: ``loss(batch, step)`` as the engine takes it.
        split: Training samples.
        extra_state: State beside the model, resumed with it.

    Returns:
        The engine's result; ``model`` holds the last weights.

    Raises:
        UnusableInput: A camera file or the resume state is damaged.
    """
    profile, schedule = job.profile, training.schedule
    warn_of_slow_precision(schedule, device=job.device)
    dataset = training_dataset(split, model=profile.model, data=profile.data, schedule=schedule)
    with _resuming():
        return train(
            model,
            loss=_with_range_penalty(loss, model=model, factor=profile.quantization.pact_penalty),
            batches=NumberedBatches(
                dataset, batch_size=schedule.batch_size, seed=profile.seed, workers=profile.data.workers
            ),
            optimiser=_optimiser(model, training=training, backbone=profile.model.backbone_paths),
            schedule=ScheduleSettings(
                steps=training.steps,
                warmup_steps=schedule.warmup_steps,
                warmup_ratio=schedule.warmup_ratio,
                shape=schedule.curve,
                minimum_ratio=schedule.final_ratio,
            ),
            scratch=job.store.scratch(training.kind, key=training.key),
            key=training.key,
            precision=_PRECISIONS[schedule.precision],
            accumulation=schedule.accumulation,
            ema_decay=schedule.ema_decay,
            freeze_batchnorm=training.freeze_batchnorm,
            seed=profile.seed,
            device=profile.device,
            save_every=schedule.save_every,
            log_every=schedule.log_every,
            extra_state=extra_state,
            trackers=profile.log_with,
            records=events_of(job.store.place(training.kind, profile=profile, key=training.key)),
            progress=job.progress,
            label=training.label,
        )


def _optimiser(model: nn.Module, *, training: Training, backbone: Sequence[str]) -> OptimiserSettings:
    """The optimiser of a training: rates by part, learned ranges at a rate of their own and without decay."""
    schedule = training.schedule
    multipliers = dict.fromkeys(backbone, schedule.backbone_multiplier)
    multipliers |= {path: factor * multipliers.get(path, 1.0) for path, factor in training.part_multipliers.items()}
    leaves = {name.rpartition(".")[2] for name, _ in model.named_parameters()}
    learned = [name for name in RANGE_PARAMETERS if name in leaves]
    return OptimiserSettings(
        learning_rate=schedule.learning_rate,
        weight_decay=schedule.weight_decay,
        part_multipliers=multipliers,
        leaf_multipliers=dict.fromkeys(learned, training.range_multiplier),
        undecayed=tuple(f"*.{name}" for name in learned),
        clip_norm=schedule.clip_norm,
    )


def _with_range_penalty(loss: Loss, *, model: nn.Module, factor: float) -> Loss:
    """The loss plus PACT's term of squared clipping levels; the loss itself where the model learns none.

    A term of the loss, as PACT prints it, and no weight decay: AdamW's decay is not the gradient of such a term.
    """
    if not factor or not any(name.endswith(".pact_alpha") for name, _ in model.named_parameters()):
        return loss

    def penalised(batch: Any, step: int) -> tuple[Tensor, Mapping[str, float | Tensor]]:
        total, terms = loss(batch, step)
        penalty = factor * range_penalty(model)
        return total + penalty, {**terms, "pact_penalty": penalty.detach()}

    return penalised


@contextmanager
def _resuming() -> Iterator[None]:
    """Around a training: a resume state that cannot be gone on from is damaged input, as an artifact would be."""
    try:
        yield
    except DamagedState as error:
        raise UnusableInput(str(error)) from error


class NumberedBatches:
    """Training batches by number, as the engine asks for them: batch b is a function of the seed and b alone."""

    def __init__(self, dataset: Frames, *, batch_size: int, seed: int, workers: int) -> None:
        self._dataset = dataset
        self._batch_size = batch_size
        self._seed = seed
        self._workers = workers

    def __call__(self, start: int, *, stride: int) -> Iterator[Any]:
        """Batches ``start``, ``start + stride``, ... without end; a damaged camera file is ``UnusableInput``."""
        return fetched(load_slots(self._dataset, batches=self._slots(start, stride=stride), workers=self._workers))

    def _slots(self, start: int, *, stride: int) -> Iterator[list[Slot]]:
        order = TrainingOrder(len(self._dataset), seed=self._seed)
        size = self._batch_size
        for number in count(start, stride):
            yield [order.slot(number, place=place, global_batch=size) for place in range(size)]


def detection_loss(detector: nn.Module, *, job: Job, single_frame_steps: int = 0) -> Loss:
    """The detector's own losses, summed.

    Args:
        detector: A detector with mmdet3d's interface.
        job: Its device.
        single_frame_steps: So many steps at the start see the current frame alone, without history.
    """

    def loss(batch: Any, step: int) -> tuple[Tensor, Mapping[str, float | Tensor]]:
        inputs = on_device(batch, device=job.device, last_frames=1 if step < single_frame_steps else None)
        return sum_losses(detector(inputs["inputs"], inputs["data_samples"], mode="loss"))

    return loss


def on_device(batch: Any, *, device: torch.device, last_frames: int | None = None) -> Any:
    """The batch with its images on the device, cut to the last frames of every queue where wanted."""
    inputs, samples = batch["inputs"], batch["data_samples"]
    if last_frames is not None and isinstance(inputs.get("img"), Tensor):  # lists hold single frames
        inputs = {"img": inputs["img"][:, -last_frames:]}
        for sample in samples:
            sample.set_metainfo({"frames": sample.metainfo["frames"][-last_frames:]})
    return {"inputs": inputs_on({"inputs": inputs}, device=device), "data_samples": samples}
