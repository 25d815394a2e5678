"""Learning-rate schedules as pure functions of the step: warm-up, then cosine, constant or staircase."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

Shape = Literal["cosine", "constant", "step"]


@dataclass(frozen=True)
class ScheduleSettings:
    """How long to train and how the learning rate moves meanwhile.

    BEVFormer's official schedule is ``warmup_steps=500, warmup_ratio=1/3, shape="cosine", minimum_ratio=1e-3,
    hold_steps=<steps of one epoch>``, because mmcv steps its cosine once per epoch.

    Attributes:
        steps: Optimiser steps in all.
        warmup_steps: Steps of the linear warm-up. It multiplies the shape's own value, as in mmcv.
        warmup_ratio: Share of the shape's value at step 0, in (0, 1].
        shape: Course after the warm-up.
        minimum_ratio: Share of the peak the cosine ends at.
        hold_steps: The shape is evaluated at multiples of this many steps only; 1 follows every step.
        milestones: For "step": shares of ``steps``, in (0, 1), at which the rate is multiplied by ``milestone_factor``.
        milestone_factor: For "step": the factor.
    """

    steps: int
    warmup_steps: int = 0
    warmup_ratio: float = 1.0 / 3.0
    shape: Shape = "cosine"
    minimum_ratio: float = 1e-3
    hold_steps: int = 1
    milestones: tuple[float, ...] = ()
    milestone_factor: float = 0.1

    def __post_init__(self) -> None:
        """Refuse values without a meaning.

        Raises:
            ValueError: A number outside its range, or an unknown shape.
        """
        if self.shape not in get_args(Shape):
            raise ValueError(f"schedule shape {self.shape!r}: expected one of {', '.join(get_args(Shape))}")
        if self.steps < 0 or self.warmup_steps < 0 or self.hold_steps < 1:
            raise ValueError(
                f"steps={self.steps}, warmup_steps={self.warmup_steps}, hold_steps={self.hold_steps}: "
                "expected steps and warmup_steps of at least 0 and hold_steps of at least 1"
            )
        if not 0.0 < self.warmup_ratio <= 1.0 or not 0.0 <= self.minimum_ratio <= 1.0:
            raise ValueError(
                f"warmup_ratio={self.warmup_ratio}, minimum_ratio={self.minimum_ratio}: "
                "expected 0 < warmup_ratio <= 1 and 0 <= minimum_ratio <= 1"
            )


def learning_rate_factor(step: int, *, settings: ScheduleSettings) -> float:
    """Give the factor on the peak learning rate at one step.

    >>> settings = ScheduleSettings(steps=4, warmup_steps=0, minimum_ratio=0.0)
    >>> [round(learning_rate_factor(step, settings=settings), 4) for step in range(4)]
    [1.0, 0.8536, 0.5, 0.1464]
    >>> settings = ScheduleSettings(steps=9, warmup_steps=2, warmup_ratio=0.5, shape="constant")
    >>> [learning_rate_factor(step, settings=settings) for step in range(3)]
    [0.5, 0.75, 1.0]

    Args:
        step: Optimiser step, counted from 0.
        settings: The schedule.

    Returns:
        A factor in [0, 1].
    """
    factor = _shape_factor(step - step % settings.hold_steps, settings=settings)
    if step < settings.warmup_steps:
        factor *= 1.0 - (1.0 - step / settings.warmup_steps) * (1.0 - settings.warmup_ratio)
    return factor


def _shape_factor(step: int, *, settings: ScheduleSettings) -> float:
    progress = min(step / max(settings.steps, 1), 1.0)
    if settings.shape == "constant":
        return 1.0
    if settings.shape == "step":
        return float(settings.milestone_factor ** sum(progress >= milestone for milestone in settings.milestones))
    return settings.minimum_ratio + (1.0 - settings.minimum_ratio) * 0.5 * (1.0 + math.cos(math.pi * progress))
