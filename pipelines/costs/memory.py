"""What a detector takes in memory by its shapes: inference, a step of QAT, a step of distillation; no data needed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from pipelines.assembly.detector import Detector
from pipelines.assembly.quantized import learn_ranges_of, with_quantizers
from pipelines.assembly.scene import countable
from profiles import Profile
from profiles.sections.schedule import PARTS, Optimisation
from qdbev.detectors.detector import Scene
from qdbev.quantization import Quantizer, activation_memory, fold_batchnorm, set_parts, trainable_parameters

_FLOAT_BYTES = 4


@dataclass(frozen=True)
class Memory:
    """Bytes in float32; what kernels allocate inside themselves, and the allocator's waste, come on top."""

    inference: int
    """Weights, and the largest activations of one frame."""
    qat_step: int
    """Weights, gradients, Adam's moments, an average where one is kept, and what the backward pass waits for."""
    distillation_step: int
    """The same, and the float teacher beside it."""


def inference_bytes(profile: Profile) -> int:
    """``Memory.inference`` alone.

    Raises:
        ValueError: The detector cannot run by shapes alone.
    """
    detector, scene = countable(profile)
    return _weight_bytes(detector) + activation_memory(detector, detector.shape_run(scene)).peak_bytes


def float_step_bytes(profile: Profile) -> int:
    """A step of float training, without heads that are dropped afterwards.

    Raises:
        ValueError: The detector cannot run by shapes alone.
    """
    detector, scene = countable(profile)
    weights, trainable = _weight_bytes(detector), trainable_parameters(detector) * _FLOAT_BYTES
    frame = activation_memory(detector, detector.shape_run(scene)).peak_bytes
    saved = activation_memory(detector, detector.shape_run(scene, training=True)).peak_bytes
    return _step_bytes(
        profile, schedule=profile.float_training, weights=weights, trainable=trainable, frame=frame, saved=saved
    )


def memory(profile: Profile) -> Memory:
    """Count the memory of a profile's model.

    Args:
        profile: Its model, data, quantization, qat and distillation sections; batch sizes are those of one process.

    Raises:
        ValueError: The detector cannot run by shapes alone.
    """
    detector, scene = countable(profile)
    weights, trainable = _weight_bytes(detector), trainable_parameters(detector) * _FLOAT_BYTES
    frame = activation_memory(detector, detector.shape_run(scene)).peak_bytes
    student = _quantized(detector, profile=profile, scene=scene)
    saved = activation_memory(student, student.shape_run(scene, training=True)).peak_bytes
    step = partial(_step_bytes, profile, weights=weights, trainable=trainable, frame=frame, saved=saved)
    teacher = weights + profile.distillation.schedule.batch_size * frame
    return Memory(weights + frame, step(schedule=profile.qat), step(schedule=profile.distillation.schedule) + teacher)


def _step_bytes(
    profile: Profile, *, schedule: Optimisation, weights: int, trainable: int, frame: int, saved: int
) -> int:
    """A step: weights, gradients, Adam's moments, an average, and the activations of a batch."""
    average = weights if schedule.ema_decay is not None else 0
    history = frame * (profile.data.queue_length - 1)  # its frames run at once, before the one that trains
    return weights + 3 * trainable + average + schedule.batch_size * max(saved, history)


def _quantized(detector: Detector, *, profile: Profile, scene: Scene) -> Detector:
    """The detector as QAT trains it, in place, every part on, with ranges of no meaning."""
    folding = fold_batchnorm(detector, detector.shape_run(scene))
    detector.to_empty(device="cpu")
    quantized = with_quantizers(detector, folding, profile=profile)
    for module in detector.modules():
        if isinstance(module, Quantizer):
            module.set_range(torch.ones_like(module.scale))
    set_parts(detector, PARTS)
    learn_ranges_of(quantized, section=profile.quantization)  # those that are on
    return detector


def _weight_bytes(detector: nn.Module) -> int:
    return sum(value.numel() * value.element_size() for value in detector.state_dict().values())
