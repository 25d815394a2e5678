"""One optimiser step: forward and backward over its batches, clipping, update, averaging; or a clean skip."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from torch import Tensor, nn

from qdbev.engine.average import AverageWeights
from qdbev.engine.loss import Loss, LossModule
from qdbev.engine.optimiser import (
    OptimiserSettings,
    build_optimiser,
    load_optimiser_tensors,
    optimiser_tensors,
    set_learning_rate,
)
from qdbev.engine.randomness import seed_everything


@dataclass(frozen=True)
class StepResult:
    """What one step gave.

    Attributes:
        values: loss, grad_norm and the loss's terms; means over accumulated batches and processes.
        finite: False when the step was left out because loss or gradient was not finite.
        stop: True when a process asked to stop.
    """

    values: dict[str, float]
    finite: bool
    stop: bool


class Stepper:
    """Model, optimiser and moving average on their device, ready to take steps.

    Attributes:
        model: The model, unwrapped.
        average: The moving average, or None.
        clip_norm: Norm that gradients are clipped to; infinite where they are not.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        loss: Loss,
        accelerator: Accelerator,
        settings: OptimiserSettings,
        ema_decay: float | None,
        seed: int,
    ) -> None:
        self.model = model.to(accelerator.device)
        self.average = None if ema_decay is None else AverageWeights(model, decay=ema_decay)
        self._accelerator = accelerator
        self._settings = settings
        self.clip_norm = math.inf if settings.clip_norm is None else settings.clip_norm
        self._seed = seed
        # the fused kernel and the gradient scaler of fp16 both want to unscale
        self._plain = build_optimiser(model, settings=settings, fused=accelerator.scaler is None)
        self._parameters = [parameter for group in self._plain.param_groups for parameter in group["params"]]
        self._loss_module, self._optimiser = accelerator.prepare(LossModule(model, loss=loss), self._plain)
        self._plain.zero_grad()

    def take(self, stream: Iterator[tuple[int, Any]], *, step: int, factor: float, stop: bool) -> StepResult:
        """Take one step.

        Args:
            stream: Batches with their numbers.
            step: Step, counted from 0; the loss gets it.
            factor: Factor on the peak learning rate.
            stop: This process asks to stop after this step.

        Returns:
            Values and what became of the step.
        """
        buffers = [buffer.clone() for buffer in self.model.buffers()]
        terms = self._backward(stream, step=step)
        terms["grad_norm"] = self._accelerator.clip_grad_norm_(self._parameters, self.clip_norm)
        values, stop = self._agree(terms, stop=stop)
        set_learning_rate(self._plain, learning_rate=self._settings.learning_rate * factor)
        # with fp16 an infinite gradient is the scaler's business: it skips and halves its scale
        norm_counts = self._accelerator.scaler is None
        finite = math.isfinite(values["loss"]) and (math.isfinite(values["grad_norm"]) or not norm_counts)
        self._update() if finite else self._skip(buffers)
        self._plain.zero_grad()
        return StepResult(values=values, finite=finite, stop=stop)

    def tensors(self) -> dict[str, Tensor]:
        """Give everything that a resumed run needs, as flat tensors."""
        groups = {"model": self.model.state_dict(), "moment": optimiser_tensors(self._plain)}
        if self.average is not None:
            groups["average"] = self.average.tensors()
        return {f"{kind}:{name}": tensor for kind, group in groups.items() for name, tensor in group.items()}

    def numbers(self) -> dict[str, Any]:
        """Give everything else that a resumed run needs, fit for JSON."""
        scaler = self._accelerator.scaler
        return {
            "average_updates": 0 if self.average is None else self.average.updates,
            "scaler": None if scaler is None else scaler.state_dict(),
        }

    def load(self, tensors: Mapping[str, Tensor], *, numbers: Mapping[str, Any]) -> None:
        """Put back what ``tensors`` and ``numbers`` gave.

        Raises:
            ValueError: The state is of another model, optimiser or precision.
        """
        state, present = _of_kind("model", tensors=tensors), self.model.state_dict()
        if odd := _differing(state, present):
            raise ValueError(f"it is of another model, {len(odd)} tensors differ, first {odd[0]}")
        self.model.load_state_dict(state, strict=True)
        load_optimiser_tensors(self._plain, tensors=_of_kind("moment", tensors=tensors))
        if self.average is not None:
            self.average.load_tensors(_of_kind("average", tensors=tensors))
            self.average.updates = numbers["average_updates"]
        if (self._accelerator.scaler is None) != (numbers["scaler"] is None):
            raise ValueError("it is of a run of another precision")
        if self._accelerator.scaler is not None:
            self._accelerator.scaler.load_state_dict(numbers["scaler"])

    def _backward(self, stream: Iterator[tuple[int, Any]], *, step: int) -> dict[str, Tensor]:
        count = self._accelerator.gradient_accumulation_steps
        total: dict[str, Tensor] = {}
        for _ in range(count):
            number, batch = next(stream)
            if self._accelerator.device.type != "cpu":
                batch = send_to_device(batch, self._accelerator.device)
            seed_everything(self._seed, number)
            with self._accelerator.accumulate(self._loss_module):
                loss, terms = self._loss_module(batch, step)
                self._accelerator.backward(loss)
            for name, term in {**terms, "loss": loss.detach()}.items():
                total[name] = term.double() / count + total.get(name, 0.0)
        return total

    def _agree(self, terms: Mapping[str, Tensor], *, stop: bool) -> tuple[dict[str, float], bool]:
        names = sorted(terms)
        flag = torch.tensor(float(stop), dtype=torch.float64, device=self._accelerator.device)
        values = torch.stack([*(terms[name].double() for name in names), flag])
        if self._accelerator.num_processes > 1:
            values = self._accelerator.reduce(values, reduction="mean")
        *means, stops = values.tolist()
        return dict(zip(names, means, strict=True)), stops > 0.0

    def _update(self) -> None:
        self._optimiser.step()
        if self.average is not None and not self._optimiser.step_was_skipped:
            self.average.update()

    @torch.no_grad()
    def _skip(self, buffers: list[Tensor]) -> None:
        for buffer, former in zip(self.model.buffers(), buffers, strict=True):
            buffer.copy_(former)
        if self._accelerator.scaler is not None:
            self._accelerator.scaler.update()


def _of_kind(kind: str, *, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.partition(":")[2]: tensor for name, tensor in tensors.items() if name.startswith(kind + ":")}


def _differing(state: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> list[str]:
    """Names that one of the two lacks or has in another shape."""
    return sorted(name for name in {*state, *present} if _shape(state, name) != _shape(present, name))


def _shape(tensors: Mapping[str, Tensor], name: str) -> object:
    return tensors[name].shape if name in tensors else None
