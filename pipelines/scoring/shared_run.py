"""Many rows of quantized sites over one split side by side, what they share computed once.

Whatever comes before the first quantized stage of a row is the float network's and is computed once for all rows that
share it; so are stages with the same parts on (and then the same history). Of a detector known by its mmdet3d config
alone the stages cannot be run apart: each row runs it whole.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipelines.assembly.detector import Detector, device_of, inputs_on
from pipelines.assembly.quantized import Quantized
from pipelines.assembly.samples import Split
from pipelines.scoring.prediction import ResultCollector, Results, evaluation_batches, together
from profiles import Profile
from profiles.sections.schedule import PARTS
from qdbev.data.queues.batches import Batch
from qdbev.detectors.bevformer import BEVFormer
from qdbev.detectors.bevformer.frames.batches import current_frames
from qdbev.detectors.bevformer.frames.history import StreamingHistory
from qdbev.quantization import quantized_layers, set_sites
from qdbev.quantization.layers.swap import Tensors


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
        profile: Its model, evaluation, data and device sections.
        tensors: Of the sites of a row, which quantizers are on.
    """

    def __init__(
        self,
        quantized: Quantized,
        *,
        rows: Iterable[Row],
        split: Split,
        profile: Profile,
        tensors: Tensors = "all",
    ) -> None:
        self.detector: Detector = quantized.detector
        self.tensors = tensors
        self.rows = list(rows)
        self.split, self.profile = split, profile
        self.part_of = {path: layer.site.part for path, layer in quantized_layers(quantized.detector).items()}
        self.histories: dict[Hashable, StreamingHistory] = {}
        self.collectors = {
            row.name: ResultCollector(split, max_boxes=profile.evaluation.max_boxes) for row in self.rows
        }
        self.stages_run = self.stages_asked = 0
        self.seconds = self.seconds_unshared = 0.0

    def run(self, *, progress: bool = False) -> dict[str, Results]:
        """Result entries by row name."""
        self.detector.eval().to(device_of(self.profile))
        batches = evaluation_batches(self.split, profile=self.profile, label="sensitivity", progress=progress)
        with torch.inference_mode():
            for batch in batches:
                self._batch(batch)
        return {name: together(collector.results) for name, collector in self.collectors.items()}

    def saving(self) -> str:
        """What sharing saved, in a sentence."""
        if not isinstance(self.detector, BEVFormer):
            return f"each of {len(self.rows)} rows ran the whole detector, whose stages cannot be run apart"
        share = 1 - self.seconds / self.seconds_unshared if self.seconds_unshared else 0.0
        return (
            f"{self.stages_run} stages run of {self.stages_asked} asked for, {share:.0%} of the time saved by sharing"
        )

    def _batch(self, batch: Batch) -> None:
        memory: dict[Hashable, tuple[Any, float]] = {}
        if not isinstance(self.detector, BEVFormer):
            for row in self.rows:
                self._whole(batch, memory, row)
            return
        detector = self.detector
        images: Tensor = batch["inputs"]["img"][:, -1].to(device_of(self.profile))
        frames = current_frames(batch["data_samples"], device=images.device)
        for row in self.rows:
            keys = {stage: row.prefix(stage, part_of=self.part_of) for stage in PARTS}
            history = self.histories.setdefault(keys["encoder"], StreamingHistory(max_scenes=len(images)))

            def encode(levels: list[Tensor], history: StreamingHistory = history) -> Tensor:
                encoded = detector.encode(levels, frames=frames, history=history.lookup(frames))
                history.store(encoded.bev_BQC, frames=frames)
                return encoded.bev_BQC

            steps: dict[str, Callable[[Any], Any]] = {
                "backbone": detector.backbone_features,
                "neck": lambda maps: detector.neck_features(maps, cameras=images.shape[1]),
                "encoder": encode,
                "decoder": lambda bev: detector.boxes(detector.decode(bev)),
            }
            value: Any = images
            for stage in PARTS:
                value = self._once(keys[stage], memory, row, lambda: steps[stage](value))  # noqa: B023
            for sample, boxes in zip(batch["data_samples"], value, strict=True):
                self.collectors[row.name](sample.metainfo["frames"][-1]["token"], boxes)

    def _whole(self, batch: Batch, memory: dict[Hashable, tuple[Any, float]], row: Row) -> None:
        inputs = inputs_on(batch, device=device_of(self.profile))
        found = self._once(row.sites, memory, row, lambda: self.detector.detections(inputs, batch["data_samples"]))
        for token, boxes in found:
            self.collectors[row.name](token, boxes)

    def _once(
        self, key: Hashable, memory: dict[Hashable, tuple[Any, float]], row: Row, compute: Callable[[], Any]
    ) -> Any:
        self.stages_asked += 1
        if key not in memory:
            set_sites(self.detector, row.sites, tensors=self.tensors)
            start = time.perf_counter()
            value = compute()
            memory[key] = value, time.perf_counter() - start
            self.stages_run += 1
            self.seconds += memory[key][1]
        self.seconds_unshared += memory[key][1]
        return memory[key][0]
