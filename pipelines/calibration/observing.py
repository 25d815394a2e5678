"""Ranges from a run over the calibration samples, and that run itself."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tqdm import tqdm

from pipelines.assembly.detector import Detector, inputs_on
from pipelines.assembly.job import Job
from pipelines.assembly.quantized import Quantized
from pipelines.assembly.samples import Split, ordered_dataset
from pipelines.store.integrity import fetched
from qdbev.data.nuscenes.records import Sample
from qdbev.data.queues.batches import streaming_batches
from qdbev.quantization import observing, ranges_missing


def refuse_evaluation_samples(samples: Sequence[Sample], *, evaluated: Split) -> list[str]:
    """Tokens of calibration samples, none of which is scored.

    Raises:
        ValueError: One is.
    """
    tokens = [sample["token"] for sample in samples]
    scored = {sample["token"] for sample in evaluated.samples}
    if shared := scored.intersection(tokens):
        raise ValueError(
            f"{len(shared)} of {len(tokens)} calibration samples are also evaluated, first {min(shared)}: scores would "
            "be flattered; set evaluation.split to one that is not trained on"
        )
    return tokens


def observe(
    quantized: Quantized,
    *,
    job: Job,
    parts: Sequence[str] | None = None,
    observer: str | None = None,
    unsigned: bool | None = None,
    progress: bool = False,
) -> None:
    """Set ranges from a run over the calibration samples.

    Args:
        quantized: The detector.
        job: Its calibration samples are run.
        parts: Set the ranges of these parts alone, which run in float, the others as they are; None means all.
        observer: What chooses the ranges, in place of the profile's observers.
        unsigned: Whether activations that are never negative get unsigned integers, in place of the profile's word.
        progress: Show a bar.

    Raises:
        ValueError: A quantizer saw nothing.
    """
    detector = quantized.detector
    with observing(detector, parts=parts, observer=observer, unsigned_inputs=unsigned):
        run_samples(detector, job=job, progress=progress)
    if missing := ranges_missing(detector):
        raise ValueError(
            f"{len(missing)} quantizers saw nothing in calibration, first {missing[0]}: use more calibration.samples"
        )


def run_samples(detector: Detector, *, job: Job, progress: bool = False) -> None:
    """Run the calibration samples through a detector, in eval mode, in scene order, history reset at scene borders.

    Args:
        detector: Goes to the job's device; leaves no history behind.
        job: Whose samples.
        progress: Show a bar.
    """
    detector.eval().to(job.device).history.reset()
    dataset = ordered_dataset(job.split("train"), model=job.profile.model, samples=job.calibration_samples())
    with torch.no_grad():
        batches = fetched(streaming_batches(dataset, streams=1, workers=0))
        for batch in tqdm(batches, total=len(dataset), desc="calibrate", unit="sample", disable=not progress):
            detector(inputs_on(batch, device=job.device), batch["data_samples"], mode="predict")
    detector.history.reset()
