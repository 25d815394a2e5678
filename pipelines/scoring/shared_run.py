"""Many rows of quantized sites over one split side by side, what they share computed once.

Whatever comes before the first quantized stage of a row is the float network's and is computed once for all rows that
share it; so are stages with the same parts on (and then the same history). A detector that cannot run part by part is
run whole in each row.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipelines.assembly.detector import Detector, inputs_on
from pipelines.assembly.job import Job
from pipelines.assembly.quantized import Quantized
from pipelines.assembly.samples import Split
from pipelines.scoring.kept_scenes import KeptScenes
from pipelines.scoring.prediction import evaluation_batches
from pipelines.scoring.results import ResultCollector, Results, together
from profiles.sections.schedule import PARTS
from qdbev.data.queues.batches import Batch
from qdbev.detectors.detector import Step
from qdbev.quantization import quantized_layers, set_sites
from qdbev.quantization.layers.swap import Tensors

_NUMBERS = ("stages_run", "stages_asked", "seconds", "seconds_unshared")


@dataclass(frozen=True)
class Row:
    """One row of the table: what is quantized in it."""

    name: str
    part: str
    sites: frozenset[str]

    def prefix(self, stage: str, *, part_of: dict[str, str]) -> Hashable:
        """What decides the output of ``stage`` in this row: the quantized sites in it and before it."""
        before = PARTS[: PARTS.index(stage) + 1]
        return stage, frozenset(site for site in self.sites if part_of[site] in before)


class SharedRun:
    """All rows over a split, stages with the same prefix computed once.

    Args:
        quantized: The detector.
        rows: What is quantized in each.
        split: What is run.
        job: Its model, evaluation, data and device sections; whether a bar is shown.
        tensors: Of the sites of a row, which quantizers are on.
        scratch: Folder that keeps the scenes that are done, which a killed run then finds; None keeps nothing.
    """

    def __init__(
        self,
        quantized: Quantized,
        *,
        rows: Iterable[Row],
        split: Split,
        job: Job,
        tensors: Tensors = "all",
        scratch: Path | None = None,
    ) -> None:
        self.detector: Detector = quantized.detector
        self.tensors = tensors
        self.rows = list(rows)
        self.split, self.job, self.scratch = split, job, scratch
        self.part_of = {path: layer.site.part for path, layer in quantized_layers(quantized.detector).items()}
        self.histories: dict[Hashable, Any] = {}
        self.collectors = {
            row.name: ResultCollector(split, max_boxes=job.profile.evaluation.max_boxes) for row in self.rows
        }
        self._switched_to: Row | None = None
        self.stages_run = self.stages_asked = 0
        self.seconds = self.seconds_unshared = 0.0

    def run(self) -> dict[str, Results]:
        """Result entries by row name."""
        self.detector.eval().to(self.job.device)
        self._switched_to = None  # others may have switched the detector since
        results = {name: collector.results for name, collector in self.collectors.items()}
        kept = KeptScenes(self.scratch, split=self.split, results=results)
        for name, number in kept.numbers.items():
            setattr(self, name, number)
        with torch.inference_mode():
            for batch in evaluation_batches(kept.left, job=self.job, label="sensitivity", done=kept.done):
                self._batch(batch)
                kept.keep(**{name: getattr(self, name) for name in _NUMBERS})
        return {name: together(collector.results, split=self.split) for name, collector in self.collectors.items()}

    def saving(self) -> str:
        """What sharing saved, in a sentence."""
        if self.detector.cannot("stages"):
            return f"each of {len(self.rows)} rows ran the whole detector, whose stages cannot be run apart"
        share = 1 - self.seconds / self.seconds_unshared if self.seconds_unshared else 0.0
        return (
            f"{self.stages_run} stages run of {self.stages_asked} asked for, {share:.0%} of the time saved by sharing"
        )

    def _batch(self, batch: Batch) -> None:
        ready = batch | {"inputs": inputs_on(batch, device=self.job.device)}
        memory: dict[Hashable, tuple[Any, float]] = {}
        for row in self.rows:
            value, steps = self._steps(row, batch=ready)
            for part, step in steps.items():
                key = row.prefix(part, part_of=self.part_of)
                value = self._once(key, memory, row, lambda: step(value))  # noqa: B023
            for token, boxes in value:
                self.collectors[row.name](token, boxes)

    def _steps(self, row: Row, *, batch: Batch) -> tuple[Any, dict[str, Step]]:
        """What the first part takes, and part -> what it does in this row; the last gives tokens and boxes."""
        detector, inputs, samples = self.detector, batch["inputs"], batch["data_samples"]
        if detector.cannot("stages"):
            return inputs, {PARTS[-1]: lambda whole: detector.detections(whole, samples)}
        remembered = detector.memory_part and row.prefix(detector.memory_part, part_of=self.part_of)
        history = self.histories.setdefault(remembered, detector.new_history(scenes=len(samples)))
        stages = detector.stages(inputs, samples, history=history)
        return stages.first, stages.streamed()

    def _once(
        self, key: Hashable, memory: dict[Hashable, tuple[Any, float]], row: Row, compute: Callable[[], Any]
    ) -> Any:
        self.stages_asked += 1
        if key not in memory:
            if row is not self._switched_to:  # a row's stages follow each other
                set_sites(self.detector, row.sites, tensors=self.tensors)
                self._switched_to = row
            start = time.perf_counter()
            value = compute()
            memory[key] = value, time.perf_counter() - start
            self.stages_run += 1
            self.seconds += memory[key][1]
        self.seconds_unshared += memory[key][1]
        return memory[key][0]
