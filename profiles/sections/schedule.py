"""Training schedules: one set of optimiser settings, for float training, progressive QAT and distillation.

Defaults are the QD-BEV supplement's where it states them (learning rate 2e-4, backbone x 0.1 in progressive QAT; 1e-5
and x 0.5 in distillation), else those of the official BEVFormer training.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from profiles.document import Document

PARTS = ("backbone", "neck", "encoder", "decoder")  # the paper's order of stages (Algorithm 1)


class Optimisation(Document):
    """AdamW, its learning-rate curve, precision and augmentation."""

    outside_digest: ClassVar[frozenset[str]] = frozenset({"save_every"})

    batch_size: int = Field(default=1, ge=1, le=4096)
    """Samples per step and process."""
    accumulation: int = Field(default=1, ge=1, le=10**6)
    """Batches summed into one optimiser step."""
    learning_rate: float = Field(default=2e-4, gt=0, le=1000)
    """Peak learning rate."""
    backbone_multiplier: float = Field(default=0.1, ge=0)
    """Factor on the learning rate of the image backbone."""
    weight_decay: float = Field(default=0.01, ge=0)
    """AdamW weight decay, on every trained tensor but learned ranges."""
    warmup_steps: int = Field(default=500, ge=0, le=10**9)
    """Steps over which the learning rate rises linearly to its peak."""
    warmup_ratio: float = Field(default=1 / 3, gt=0, le=1)
    """Learning rate of the first step as a share of the peak."""
    curve: Literal["cosine", "constant"] = "cosine"
    """Course of the learning rate after the warm-up."""
    final_ratio: float = Field(default=1e-3, ge=0, le=1)
    """Learning rate a cosine ends at, as a share of the peak."""
    clip_norm: float | None = Field(default=35.0, gt=0)
    """Largest L2 norm of the whole gradient; null does not clip."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Arithmetic of the forward pass."""
    ema_decay: float | None = Field(default=None, gt=0, lt=1)
    """Decay of the averaged weights that are kept at the end; null keeps the last weights."""
    grid_mask_probability: float = Field(default=0.7, ge=0, le=1)
    """Chance per step that squares of the images are masked out (GridMask)."""
    photometric: bool = True
    """Distort brightness, contrast, saturation and hue of training images."""
    save_every: int = Field(default=200, ge=1, le=10**9)
    """Steps between resume states."""
    log_every: int = Field(default=10, ge=1, le=10**9)
    """Steps between points of the training curve."""


class Schedule(Optimisation):
    """A training of one piece."""

    steps: int = Field(default=1000, ge=0, le=10**9)
    """Optimiser steps."""


class FloatSchedule(Schedule):
    """The training of float weights."""

    later: ClassVar[frozenset[str]] = frozenset({"parts", "other_multiplier", "backbone_from"})

    auxiliary: bool = False
    """Train dense heads beside the detector (heat, heading, velocity, depth); they are dropped afterwards."""
    start_from: str | None = None
    """Weights to start from: zoo, or any artifact of kind float by path or name; null starts from scratch."""
    backbone_from: str | None = None
    """Weights of the image backbone alone to start from, of any detector: the name of a shipped model, or any artifact
    of kind float. Layers of other names or shapes start from scratch."""
    freeze_batchnorm: bool = False
    """Hold batch norms in evaluation mode, as quantization-aware training does: for its float control."""
    single_frame_share: float = Field(default=0.0, ge=0, le=1)
    """Share of the steps, at the start, on the current frame alone: quicker, and history is learned after."""
    parts: tuple[Literal["backbone", "neck", "encoder", "decoder"], ...] | None = None
    """Parts that train at the full rate, as in a stage of quantization-aware training; null: all."""
    other_multiplier: float = Field(default=1.0, ge=0)
    """Factor on the learning rate of the other parts; 0 freezes them."""

    @model_validator(mode="after")
    def _fits_together(self) -> FloatSchedule:
        if self.parts is None and self.other_multiplier != 1:
            raise ValueError(f"other_multiplier is {self.other_multiplier}; it must be 1 where parts is null: all")
        if self.start_from is not None and self.backbone_from is not None:
            raise ValueError("start_from brings a backbone already: leave backbone_from null")
        return self


class ProgressiveSchedule(Optimisation):
    """Quantization-aware training in stages: one part of the detector after the other becomes quantized."""

    later: ClassVar[frozenset[str]] = frozenset({"quantizer_delay", "freeze_ranges_after", "batch_norm"})

    stages: int = Field(default=4, ge=1, le=4)
    """Stages 1 to 4; 4 adds backbone, neck, encoder, decoder one by one, 1 quantizes all at once (standard QAT)."""
    steps_per_stage: int | tuple[int, int, int, int] = 1000
    """Optimiser steps of each stage; four numbers are those of backbone, neck, encoder and decoder (N1 to N4)."""
    stage_multipliers: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    """Factors on the learning rate in the stages of backbone, neck, encoder and decoder; a stage of several parts has
    the last one's."""
    other_multiplier: float = Field(default=1.0, ge=0)
    """Factor on the learning rate of the parts that a stage does not add (learned ranges excepted); 0 freezes them."""
    range_multiplier: float = Field(default=10.0, ge=0)
    """Factor on the learning rate of learned ranges. Of logarithms (quantization.learned_scale) 0.01 moves a range by a
    hundredth; steps, offsets and clipping levels move by the rate itself."""
    quantizer_delay: int = Field(default=0, ge=0)
    """Steps at the start of each stage in which the parts it adds still run in float."""
    freeze_ranges_after: int | None = Field(default=None, ge=0)
    """Steps of each stage after which ranges that move or are learned stay as they are; null never."""
    batch_norm: Literal["folded", "live"] = "folded"
    """Batch norms that calibration folded stay folded; or the parts a stage trains get them back, with statistics that
    follow the batches, and they are folded again at its end."""
    evaluate_each_stage: bool = True
    """Score the detector after every stage, for the curve over all stages."""

    @field_validator("steps_per_stage", "stage_multipliers")
    @classmethod
    def _never_negative(cls, value: int | tuple[float, ...]) -> int | tuple[float, ...]:
        if min((value,) if isinstance(value, int) else value) < 0:
            raise ValueError("must be at least 0")
        return value

    def steps(self, parts: Iterable[str] = PARTS) -> int:
        """Steps of a stage that adds these parts.

        >>> ProgressiveSchedule(steps_per_stage=(40, 20, 60, 240)).steps(["encoder", "decoder"])
        300
        """
        each = self.steps_per_stage
        return sum(each if isinstance(each, int) else each[PARTS.index(part)] for part in parts)

    def of_stage(self, parts: Iterable[str]) -> ProgressiveSchedule:
        """The schedule of a stage that adds these parts.

        >>> ProgressiveSchedule(learning_rate=1e-4, stage_multipliers=(1, 1, 1, 5)).of_stage(["decoder"]).learning_rate
        0.0005
        """
        factor = self.stage_multipliers[max(PARTS.index(part) for part in parts)]
        return self.model_copy(update={"learning_rate": self.learning_rate * factor})


def stage_parts(stages: int, *, without: Sequence[str] = ()) -> list[tuple[str, ...]]:
    """The parts each stage adds: four stages add one each, one stage adds all (standard QAT).

    Args:
        stages: 1 to 4.
        without: Parts that the detector does not have; a stage of none but these falls away.

    >>> stage_parts(4), stage_parts(1)
    ([('backbone',), ('neck',), ('encoder',), ('decoder',)], [('backbone', 'neck', 'encoder', 'decoder')])
    >>> stage_parts(2)
    [('backbone', 'neck'), ('encoder', 'decoder')]
    >>> stage_parts(4, without=["encoder"])
    [('backbone',), ('neck',), ('decoder',)]
    """
    if not 1 <= stages <= len(PARTS):
        raise ValueError(f"stages is {stages}, expected 1 to {len(PARTS)}")
    edges = [round(stage * len(PARTS) / stages) for stage in range(stages + 1)]
    groups = [tuple(part for part in PARTS[start:stop] if part not in without) for start, stop in pairwise(edges)]
    return [group for group in groups if group]
