"""What training shows and gives: the moment a hook sees, the result, and state that is resumed beside the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from qdbev.engine.average import AverageWeights
from qdbev.engine.curve import Row


class ExtraState(Protocol):
    """Something beside the model that changes during training and is resumed with it, e.g. an automatic weight."""

    def state_tensors(self) -> dict[str, Tensor]:
        """Give the state as tensors."""
        ...

    def load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what ``state_tensors`` gave."""
        ...


@dataclass(frozen=True)
class Moment:
    """What a hook sees, after a step.

    Attributes:
        step: Steps done, counted from 1.
        steps: Steps in all.
        model: The model, as given to ``train``.
        average: The moving average, or None without one; ``average.model_state()`` is a state dict.
        is_main: True in one process of several: the one that may write.
    """

    step: int
    steps: int
    model: nn.Module
    average: AverageWeights | None
    is_main: bool


@dataclass(frozen=True)
class TrainResult:
    """What training gives beside the trained model.

    Attributes:
        steps: Steps done in all.
        curve: Rows of step, learning_rate, loss, grad_norm, the loss's terms (means since the last row) and the
            metrics of ``on_step``; free of times, so equal for equal runs.
        ema_state: State dict with averaged weights on the CPU, or None.
        skipped: Steps left out because loss or gradient was not finite.
        resumed_from: Step this call began at; 0 when nothing was resumed.
        seconds: Wall time of all calls that led here, without the work lost in kills.
    """

    steps: int
    curve: list[Row]
    ema_state: dict[str, Tensor] | None
    skipped: list[int]
    resumed_from: int
    seconds: float


OnStep = Callable[[Moment], Mapping[str, float] | None]
OnSave = Callable[[Moment], None]
