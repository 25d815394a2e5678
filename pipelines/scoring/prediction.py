"""Streaming prediction of a split, the submission, and its scores."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import torch
from tqdm import tqdm

from pipelines.assembly.detector import Detector, inputs_on
from pipelines.assembly.job import Job
from pipelines.assembly.samples import Split, streaming_dataset
from pipelines.scoring.kept_scenes import KeptScenes
from pipelines.scoring.results import ResultCollector, Results, together
from pipelines.scoring.rules import rules_of
from pipelines.store import processes
from pipelines.store.integrity import UnusableInput, fetched, reading_data
from profiles.wording import counted
from qdbev.data.queues.batches import Batch, frames_in, streaming_batches
from qdbev.evaluation.ground_truth import ground_truth
from qdbev.evaluation.scores import Scores, score
from qdbev.evaluation.submission import submission


def evaluation_batches(split: Split, *, job: Job, label: str = "evaluate", done: int = 0) -> Iterator[Batch]:
    """Batches of single frames, several scenes side by side, each scene whole and in order.

    Args:
        split: Whole scenes.
        job: Its model, evaluation and data sections; whether a bar is shown.
        label: Text of the bar.
        done: Number of samples that were done before.

    Raises:
        UnusableInput: A camera file is missing or damaged.
    """
    if not split.samples:
        return
    profile = job.profile
    dataset = streaming_dataset(split, model=profile.model)
    batches = streaming_batches(dataset, streams=profile.evaluation.streams, workers=profile.data.workers)
    whole = done + len(dataset)
    with tqdm(total=whole, initial=done, desc=label, unit="sample", disable=not job.progress) as bar:
        for batch in fetched(batches):
            yield batch
            bar.update(frames_in(batch))


def predict(
    detector: Detector, *, split: Split, job: Job, label: str = "evaluate", scratch: Path | None = None
) -> Results:
    """Result entries of every sample of a split, history carried along each scene.

    Of several processes each has its share of the scenes; ``together`` brings their results into one.

    Args:
        detector: Float or quantized; put in eval mode.
        split: Whole scenes.
        job: Its model, device and evaluation sections; whether a bar is shown.
        label: Text of the bar.
        scratch: Folder that keeps the scenes that are done, which a killed run then finds; None keeps nothing.

    Raises:
        UnusableInput: All boxes that it predicts are such that none counts.
    """
    detector.eval().to(job.device)
    detector.history.reset()
    collect = ResultCollector(split, max_boxes=job.profile.evaluation.max_boxes)
    kept = KeptScenes(scratch, split=split, results={label: collect.results})
    began = time.perf_counter()
    with torch.inference_mode():
        for batch in evaluation_batches(kept.left, job=job, label=label, done=kept.done):
            for token, boxes in detector.detections(inputs_on(batch, device=job.device), batch["data_samples"]):
                collect(token, boxes)
            kept.keep()
    took_s, frames = time.perf_counter() - began, len(kept.left.samples)
    detector.history.reset()
    results = together(collect.results, split=split)
    results.frame_s = took_s / frames if frames else None
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
            rules = rules_of(split.rig)
            return len(ground_truth(split.root, version=split.version, scenes=split.scenes, rules=rules).boxes) > 0

    if not processes.agreed(counting):
        raise UnusableInput(
            f"no box counts in the {counted(len(split.scenes), 'scene')} to score: all are without points, or "
            "beyond the range of their class; evaluate more scenes"
        )


def score_results(results: Results, *, split: Split) -> Scores:
    """Scores of result entries on all scenes of a split."""
    return score(
        split.root,
        version=split.version,
        submission=submission(results),
        scenes=split.scenes,
        rules=rules_of(split.rig),
    )
