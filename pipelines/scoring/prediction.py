"""Streaming prediction of a split, the submission, and its scores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import torch
from tqdm import tqdm

from pipelines.assembly.detector import Detector, inputs_on
from pipelines.assembly.job import Job
from pipelines.assembly.samples import Split, streaming_dataset
from pipelines.store import processes
from pipelines.store.integrity import UnusableInput, fetched, reading_data
from qdbev.data.queues.batches import Batch, frames_in, streaming_batches
from qdbev.evaluation.ground_truth import ground_truth
from qdbev.evaluation.scores import Scores, score
from qdbev.evaluation.submission import left_out, sample_result, submission


class Results(dict[str, list[dict[str, Any]]]):
    """Result entries by sample token, and how many predicted boxes are not among them."""

    def __init__(
        self, entries: Mapping[str, list[dict[str, Any]]] = MappingProxyType({}), *, left_out: Counter[str]
    ) -> None:
        super().__init__(entries)
        self.left_out = left_out
        """Number of predicted boxes that were left out, by reason."""

    @property
    def boxes(self) -> int:
        """Number of entries."""
        return sum(map(len, self.values()))

    def says_left_out(self) -> str:
        """What was left out, in a sentence; empty where nothing was."""
        reasons = ", ".join(f"{count} {reason}" for reason, count in self.left_out.items() if count)
        whole = self.left_out.total() + self.boxes
        return f"{self.left_out.total()} of {whole} predicted boxes do not count: {reasons}" if reasons else ""


def evaluation_batches(split: Split, *, job: Job, label: str = "evaluate") -> Iterator[Batch]:
    """Batches of single frames, several scenes side by side, each scene whole and in order.

    Of several processes each has its share of the scenes; ``together`` brings their results into one.

    Args:
        split: Whole scenes.
        job: Its model, evaluation and data sections; whether a bar is shown.
        label: Text of the bar.

    Raises:
        UnusableInput: A camera file is missing or damaged.
    """
    profile = job.profile
    dataset = streaming_dataset(split.only(processes.share(split.scenes)), model=profile.model)
    batches = streaming_batches(dataset, streams=profile.evaluation.streams, workers=profile.data.workers)
    with tqdm(total=len(dataset), desc=label, unit="sample", disable=not job.progress) as bar:
        for batch in fetched(batches):
            yield batch
            bar.update(frames_in(batch))


def predict(detector: Detector, *, split: Split, job: Job, label: str = "evaluate") -> Results:
    """Result entries of every sample of a split, history carried along each scene.

    Args:
        detector: Float or quantized; put in eval mode.
        split: Whole scenes.
        job: Its model, device and evaluation sections; whether a bar is shown.
        label: Text of the bar.

    Raises:
        UnusableInput: All boxes that it predicts are such that none counts.
    """
    detector.eval().to(job.device)
    detector.history.reset()
    collect = ResultCollector(split, max_boxes=job.profile.evaluation.max_boxes)
    with torch.inference_mode():
        for batch in evaluation_batches(split, job=job, label=label):
            for token, boxes in detector.detections(inputs_on(batch, device=job.device), batch["data_samples"]):
                collect(token, boxes)
    detector.history.reset()
    results = together(collect.results, split=split)
    if not results.boxes and results.left_out.total():
        raise UnusableInput(f"nothing can be scored: {results.says_left_out()}; look at the weights and the data")
    return results


def refuse_nothing_to_find(split: Split) -> None:
    """Load the ground truth of a split, which scoring will use, before anything is predicted; in every process.

    Raises:
        UnusableInput: The tables give none, or no box of it counts.
    """

    def counting() -> bool:
        with reading_data():
            return len(ground_truth(split.root, version=split.version, scenes=split.scenes).boxes) > 0

    if not processes.agreed(counting):
        raise UnusableInput(
            f"no box counts in the {len(split.scenes)} scenes to score: all are without points, or beyond the range of "
            "their class; evaluate more scenes"
        )


def together(results: Results, *, split: Split) -> Results:
    """The results of all processes, in each of them, in the order of the split's samples.

    The order decides scores: among boxes of equal confidence the devkit takes the later one first.
    """
    shares = processes.gathered((dict(results), results.left_out))
    entries = {token: listed for share, _ in shares for token, listed in share.items()}
    ordered = {sample["token"]: entries[sample["token"]] for sample in split.samples}
    return Results(ordered, left_out=sum((counts for _, counts in shares), Counter()))


class ResultCollector:
    """Turns predicted boxes into result entries, sample by sample."""

    def __init__(self, split: Split, *, max_boxes: int) -> None:
        self._poses = {sample["token"]: sample for sample in split.samples}
        self._max_boxes = max_boxes
        self.results = Results(left_out=Counter())

    def __call__(self, token: str, boxes: Any) -> None:
        """Add one sample's ``InstanceData``."""
        pose, best = self._poses[token], slice(self._max_boxes)
        arrays = {
            "boxes": boxes.bboxes_3d.tensor[best].cpu().numpy(),
            "scores": boxes.scores_3d[best].cpu().numpy(),
            "labels": boxes.labels_3d[best].cpu().numpy(),
            "lidar2ego": pose["lidar2ego"],
        }
        self.results[token] = sample_result(**arrays, token=token, ego2global=pose["ego2global"])
        self.results.left_out.update(left_out(**arrays))


def score_results(results: Results, *, split: Split) -> Scores:
    """Scores of result entries on all scenes of a split."""
    return score(split.root, version=split.version, submission=submission(results), scenes=split.scenes)
