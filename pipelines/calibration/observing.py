"""Ranges from a run over the calibration samples, and that run itself."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from pipelines.assembly.detector import Detector, inputs_on
from pipelines.assembly.job import Job
from pipelines.assembly.quantized import Quantized
from pipelines.assembly.samples import Split, ordered_dataset
from pipelines.calibration.kept_ranges import KeptRanges
from pipelines.store.integrity import fetched
from profiles.wording import counted
from qdbev.data.nuscenes.records import Sample
from qdbev.data.queues.batches import streaming_batches
from qdbev.quantization import observing, quantized_layers, ranges_missing


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
    kept: KeptRanges | None = None,
    progress: bool = False,
) -> None:
    """Set ranges from a run over the calibration samples.

    Args:
        quantized: The detector.
        job: Its calibration samples are run.
        parts: Set the ranges of these parts alone, which run in float, the others as they are; None means all.
        observer: What chooses the ranges, in place of the profile's observers.
        unsigned: Whether activations that are never negative get unsigned integers, in place of the profile's word.
        kept: Keeps what was seen from time to time, and has what a run that was stopped has seen.
        progress: Show a bar.

    Raises:
        ValueError: A quantizer saw nothing.
    """
    detector = quantized.detector
    with observing(detector, parts=parts, observer=observer, unsigned_inputs=unsigned), _noting_calls(detector) as ran:
        run_samples(detector, job=job, kept=kept, progress=progress)
    if missing := ranges_missing(detector):
        raise ValueError(_reason_missing(missing, ran=ran))


@contextmanager
def _noting_calls(detector: Detector) -> Iterator[set[str]]:
    """Inside, the paths of the quantized layers that are called."""
    ran: set[str] = set()

    def note(path: str, module: nn.Module, args: Any) -> None:
        ran.add(path)

    layers = quantized_layers(detector)
    handles = [layer.register_forward_pre_hook(partial(note, path)) for path, layer in layers.items()]
    try:
        yield ran
    finally:
        for handle in handles:
            handle.remove()


def _reason_missing(missing: Sequence[str], *, ran: Collection[str]) -> str:
    """Why quantizers saw nothing, and what helps."""
    first = f"{counted(len(missing), 'quantizer')} saw nothing in calibration, first {missing[0]}"
    if any(missing[0].startswith(f"{path}.") for path in ran):
        return f"{first}: its layer ran on empty inputs alone; use more calibration.samples"
    return (
        f"{first}: its layer did not run in these samples, though it ran in the first frames of the split; use more "
        "calibration.samples, or leave it in float by quantization.float_layers"
    )


def run_samples(detector: Detector, *, job: Job, kept: KeptRanges | None = None, progress: bool = False) -> None:
    """Run the calibration samples through a detector, in eval mode, in scene order, history reset at scene borders.

    Args:
        detector: Goes to the job's device; leaves no history behind.
        job: Whose samples.
        kept: Is told of each sample; those that it knows already do not run.
        progress: Show a bar.
    """
    detector.eval().to(job.device).history.reset()
    done = kept.take_up(detector) if kept else 0
    dataset = ordered_dataset(job.split("train"), model=job.profile.model, samples=job.calibration_samples())
    with torch.no_grad():
        batches = fetched(streaming_batches(dataset, streams=1, workers=0, done=done))
        whole = len(dataset)
        bar = tqdm(batches, total=whole, initial=done, desc="calibrate", unit="sample", disable=not progress)
        for number, batch in enumerate(bar, start=done + 1):
            detector(inputs_on(batch, device=job.device), batch["data_samples"], mode="predict")
            if kept:
                kept.keep(detector, done=number)
    detector.history.reset()
