"""A training in progress: steps in a row, the curve, saved states, hooks, and stopping between two steps."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm

from qdbev.engine.accelerating import Tracker, open_trackers
from qdbev.engine.batches import Batches
from qdbev.engine.curve import Curve
from qdbev.engine.interruption import StopSignals
from qdbev.engine.moment import ExtraState, Moment, OnSave, OnStep, TrainResult
from qdbev.engine.schedule import ScheduleSettings, learning_rate_factor
from qdbev.engine.state import DamagedState, ResumeState, load_state, save_state
from qdbev.engine.stepping import Stepper, StepResult

_LOG = logging.getLogger(__name__)
_FAR_ABOVE = 1e6  # as many times the norm that gradients are clipped to: hardly anything of most of them is left


@dataclass
class Training:
    """A training in progress: the fixed settings, and what changes with each step."""

    stepper: Stepper
    accelerator: Accelerator
    schedule: ScheduleSettings
    learning_rate: float
    scratch: Path
    key: str
    save_every: int
    log_every: int
    nonfinite_limit: int
    on_step: OnStep | None
    on_save: OnSave | None
    extra_state: ExtraState | None

    step: int = 0
    curve: Curve = field(default_factory=Curve)
    skipped: list[int] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)  # losses of the non-finite steps in a row
    warned: bool = False
    seconds: float = 0.0
    began: float = field(default_factory=time.monotonic)
    bar: Any = None

    def resume(self) -> int:
        """Load the saved state, if there is one; give the step.

        Raises:
            DamagedState: It is damaged, or of a run with other parts under the same key.
        """
        state = load_state(self.scratch, key=self.key)
        if state is not None:
            try:
                self._take_up(state)
            except (ValueError, KeyError) as error:
                reason = f"{state.folder} does not fit this run ({error}): delete that folder to start again"
                raise DamagedState(f"resume state {reason}") from error
        steps = self.accelerator.gather(torch.tensor([self.step], device=self.accelerator.device)).tolist()
        if len(set(steps)) > 1:
            raise ValueError(f"processes resume at different steps {steps}: {self.scratch} must be seen by all of them")
        return self.step

    def go(self, batches: Batches) -> None:
        """Take all steps that are left."""
        self.stepper.model.train()
        stream = _with_numbers(batches, step=self.step, accelerator=self.accelerator) if self._left() else iter(())
        with StopSignals() as signals:
            while self._left():
                factor = learning_rate_factor(self.step, settings=self.schedule)
                stop = signals.received is not None
                taken = self.stepper.take(stream, step=self.step, factor=factor, stop=stop)
                self.step += 1
                self._account(taken)
                self._report(learning_rate=self.learning_rate * factor)
                stop = taken.stop or (signals.received is not None and self.accelerator.num_processes == 1)
                if stop or self.step % self.save_every == 0 or not self._left():
                    self._save()
                if stop:
                    signals.obey()
            if signals.received is not None:
                signals.obey()

    def result(self, resumed_from: int) -> TrainResult:
        """Give the result of a finished training."""
        average = self.stepper.average
        return TrainResult(
            steps=self.step,
            curve=self.curve.rows,
            ema_state=None if average is None else average.model_state(),
            skipped=self.skipped,
            resumed_from=resumed_from,
            seconds=self._seconds(),
        )

    @contextmanager
    def tracked(self, trackers: Sequence[Tracker], *, records: Path, progress: bool, label: str) -> Iterator[None]:
        """Keep the progress bar, and trackers where steps are left to write, open for a while."""
        if self._left():
            open_trackers(self.accelerator, trackers=trackers, folder=records, step=self.step)
        hidden = not (progress and self.accelerator.is_main_process)
        self.bar = tqdm(total=self.schedule.steps, initial=self.step, desc=label, unit="step", disable=hidden)
        try:
            yield
        finally:
            self.bar.close()
            for tracker in self.accelerator.trackers:
                tracker.finish()

    def _take_up(self, state: ResumeState) -> None:
        self.stepper.load(state.tensors, numbers=state.record["numbers"])
        if self.extra_state is not None:
            self.extra_state.load_state_tensors(_without_prefix(state.tensors, prefix="extra:"))
        self.step = state.step
        self.curve.load_state(state.record["curve"])
        self.skipped, self.bad = state.record["skipped"], state.record["bad"]
        self.seconds = state.record["seconds"]

    def _left(self) -> bool:
        return self.step < self.schedule.steps

    def _account(self, result: StepResult) -> None:
        if result.finite:
            self.curve.add(result.values)
            self.bad = []
            lost = {"not_finite": len(self.skipped)} if self.skipped else {}
            self.bar.set_postfix({"loss": f"{result.values['loss']:.4g}", **lost}, refresh=False)
        else:
            self.skipped.append(self.step - 1)
            self.bad.append(f"step {self.step - 1}: {_described(result.values)}")
        if len(self.bad) >= self.nonfinite_limit:
            raise ValueError(
                f"{len(self.bad)} steps in a row were not finite ({'; '.join(self.bad)}): "
                "lower the learning rate, clip harder, or look at the named losses"
            )
        self.bar.update()

    def _report(self, *, learning_rate: float) -> None:
        metrics = self.on_step(self._moment()) if self.on_step is not None else None
        if self.on_step is not None:
            self.stepper.model.train()  # a hook may have evaluated
        if metrics or self.step % self.log_every == 0 or not self._left():
            row = self.curve.close_row(step=self.step, learning_rate=learning_rate, metrics=metrics or {})
            self.accelerator.log({name: value for name, value in row.items() if name != "step"}, step=self.step)
            self._warn_of_norm(row.get("grad_norm", 0.0))

    def _warn_of_norm(self, norm: float) -> None:
        """Say once that a few gradients drown all others: the loss may well go on falling."""
        clip = self.stepper.clip_norm
        if self.warned or norm <= _FAR_ABOVE * clip or not self.accelerator.is_main_process:
            return
        self.warned = True
        _LOG.warning(
            f"step {self.step}: gradients are clipped from a norm of {norm:.1e} to {clip:g}, so a few numbers decide "
            "and most weights hardly move; look at the named losses, or train with precision=fp32"
        )

    def _save(self) -> None:
        if self.accelerator.is_main_process:
            extra = {} if self.extra_state is None else self.extra_state.state_tensors()
            tensors = {**self.stepper.tensors(), **{f"extra:{name}": tensor for name, tensor in extra.items()}}
            record = {
                "numbers": self.stepper.numbers(),
                "curve": self.curve.state(),
                "skipped": self.skipped,
                "bad": self.bad,
                "seconds": self._seconds(),
            }
            save_state(self.scratch, key=self.key, step=self.step, tensors=tensors, record=record)
        self.accelerator.wait_for_everyone()
        if self.on_save is not None:
            self.on_save(self._moment())
            self.stepper.model.train()

    def _seconds(self) -> float:
        return self.seconds + time.monotonic() - self.began

    def _moment(self) -> Moment:
        return Moment(
            step=self.step,
            steps=self.schedule.steps,
            model=self.stepper.model,
            average=self.stepper.average,
            is_main=self.accelerator.is_main_process,
        )


def _with_numbers(batches: Batches, *, step: int, accelerator: Accelerator) -> Iterator[tuple[int, Any]]:
    stride = accelerator.num_processes
    start = step * accelerator.gradient_accumulation_steps * stride + accelerator.process_index
    return _endless(batches(start, stride=stride), start=start, stride=stride)


def _endless(stream: Iterable[Any], *, start: int, stride: int) -> Iterator[tuple[int, Any]]:
    number = start
    for number, batch in zip(count(start, stride), stream, strict=False):
        yield number, batch
    raise ValueError(f"the batches ended after batch {number}: expected a stream without end")


def _without_prefix(tensors: Mapping[str, Tensor], *, prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _described(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in values.items())
