"""The calibration samples again and again through some parts of a detector: what comes before is computed once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from pipelines.assembly.detector import Detector, inputs_on
from pipelines.assembly.job import Job
from pipelines.assembly.samples import ordered_dataset
from pipelines.calibration.observing import run_samples
from pipelines.store.integrity import fetched
from qdbev.data.queues.batches import streaming_batches
from qdbev.detectors.detector import Stages
from qdbev.quantization import quantized_layers

MOST_BYTES = 1 << 30


class PartRun:
    """Runs the calibration samples in eval mode, in scene order, as often as it is called.

    The first call runs every step of every frame, and notes in which of them layers of the parts are called. The second
    leaves out the steps behind these, and keeps what the first of them is given; later calls begin there. A detector
    that cannot run step by step runs whole each time.

    Args:
        detector: Quantized. Between calls, nothing that comes before layers of the parts may change.
        job: Whose samples.
        parts: Their layers get the same inputs as in a whole run.
        most_bytes: More is not kept, but computed at each call.
    """

    def __init__(self, detector: Detector, *, job: Job, parts: Iterable[str], most_bytes: int = MOST_BYTES) -> None:
        self._detector, self._job, self._parts, self._most_bytes = detector, job, frozenset(parts), most_bytes
        self._calling: list[str] = []
        self._given: list[Any] = []

    def __call__(self) -> None:
        """Run the samples once."""
        if self._detector.cannot("stages"):
            run_samples(self._detector, job=self._job)
            return
        self._detector.eval().to(self._job.device)
        with torch.no_grad():
            if not self._calling:
                self._calling = self._run_whole()
            elif self._given:
                for stages, value in zip(self._frames(), self._given, strict=True):
                    self._run_parts(stages, value)
            else:
                self._given = self._keep()

    def _run_whole(self) -> list[str]:
        """Every step; the names of those in which layers of the parts are called."""
        calling, step = set(), ""
        layers = [layer for layer in quantized_layers(self._detector).values() if layer.site.part in self._parts]
        handles = [layer.register_forward_pre_hook(lambda *_: calling.add(step)) for layer in layers]
        names: list[str] = []
        try:
            for stages in self._frames():
                names, value = list(stages.steps), stages.first
                for step in names:
                    value = stages.stepped(step, value)
        finally:
            for handle in handles:
                handle.remove()
        return [name for name in names if name in calling] or names

    def _keep(self) -> list[Any]:
        """The steps up to the last that matters; what the first that matters is given in each frame, or nothing."""
        given: list[Any] = []
        kept_bytes = 0
        for stages in self._frames():
            value, names = stages.first, list(stages.steps)
            for step in names[: names.index(self._calling[0])]:
                value = stages.stepped(step, value)
            kept_bytes += sum(leaf.nbytes for leaf in tree_leaves(value) if isinstance(leaf, Tensor))
            if kept_bytes <= self._most_bytes:
                given.append(value)
            self._run_parts(stages, value)
        return given if kept_bytes <= self._most_bytes else []

    def _run_parts(self, stages: Stages, value: Any) -> None:
        names = list(stages.steps)
        for step in names[names.index(self._calling[0]) : names.index(self._calling[-1]) + 1]:
            value = stages.stepped(step, value)

    def _frames(self) -> Iterator[Stages]:
        """Every sample, with a history of this run's own."""
        detector, job = self._detector, self._job
        history = detector.new_history(scenes=1)
        dataset = ordered_dataset(job.split("train"), model=job.profile.model, samples=job.calibration_samples())
        for batch in fetched(streaming_batches(dataset, streams=1, workers=0)):
            yield detector.stages(inputs_on(batch, device=job.device), batch["data_samples"], history=history)
