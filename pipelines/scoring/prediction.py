"""Streaming prediction of a split, the submission, and its scores by nuscenes-devkit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from tqdm import tqdm

from pipelines.assembly.detector import Detector, inputs_on
from pipelines.assembly.job import Job
from pipelines.assembly.samples import Split, streaming_dataset
from pipelines.store import processes
from pipelines.store.integrity import fetched
from qdbev.data.queues.batches import Batch, frames_in, streaming_batches
from qdbev.evaluation.nuscenes import Scores, score
from qdbev.evaluation.submission import sample_result, submission

Results = dict[str, list[dict[str, Any]]]


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
    """
    detector.eval().to(job.device)
    detector.history.reset()
    collect = ResultCollector(split, max_boxes=job.profile.evaluation.max_boxes)
    with torch.inference_mode():
        for batch in evaluation_batches(split, job=job, label=label):
            for token, boxes in detector.detections(inputs_on(batch, device=job.device), batch["data_samples"]):
                collect(token, boxes)
    detector.history.reset()
    return together(collect.results, split=split)


def together(results: Results, *, split: Split) -> Results:
    """The results of all processes, in each of them, in the order of the split's samples.

    The order decides scores: among boxes of equal confidence the devkit takes the later one first.
    """
    entries = {token: listed for share in processes.gathered(results) for token, listed in share.items()}
    return {sample["token"]: entries[sample["token"]] for sample in split.samples}


class ResultCollector:
    """Turns predicted boxes into result entries, sample by sample."""

    def __init__(self, split: Split, *, max_boxes: int) -> None:
        self._poses = {sample["token"]: sample for sample in split.samples}
        self._max_boxes = max_boxes
        self.results: Results = {}

    def __call__(self, token: str, boxes: Any) -> None:
        """Add one sample's ``InstanceData``."""
        pose = self._poses[token]
        self.results[token] = sample_result(
            boxes.bboxes_3d.tensor[: self._max_boxes].cpu().numpy(),
            scores=boxes.scores_3d[: self._max_boxes].cpu().numpy(),
            labels=boxes.labels_3d[: self._max_boxes].cpu().numpy(),
            token=token,
            lidar2ego=pose["lidar2ego"],
            ego2global=pose["ego2global"],
        )


def score_results(results: Results, *, split: Split) -> Scores:
    """Scores of result entries on all scenes of a split."""
    return score(split.root, version=split.version, submission=submission(results), scenes=split.scenes)
