"""Ranges from calibration samples: which samples may be used, and the float run that is watched."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tqdm import tqdm

from pipelines.assemble import device_of
from pipelines.quantized import Quantized
from pipelines.samples import Split, ordered_dataset
from profiles import Profile
from qdbev.data.batches import streaming_batches
from qdbev.data.nuscenes import Sample
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
    quantized: Quantized, *, split: Split, samples: Sequence[Sample], profile: Profile, progress: bool = False
) -> None:
    """Set all ranges from a float run over samples in scene order, history reset at each scene's start.

    Raises:
        ValueError: A quantizer saw nothing.
    """
    detector, device = quantized.detector.eval(), device_of(profile)
    detector.to(device).history.reset()
    dataset = ordered_dataset(split, model=profile.model, samples=samples)
    with torch.no_grad(), observing(detector):
        batches = streaming_batches(dataset, streams=1, workers=0)
        for batch in tqdm(batches, total=len(dataset), desc="calibrate", unit="sample", disable=not progress):
            detector({"img": batch["inputs"]["img"].to(device)}, batch["data_samples"], mode="predict")
    detector.history.reset()
    if missing := ranges_missing(detector):
        raise ValueError(
            f"{len(missing)} quantizers saw nothing in calibration, first {missing[0]}: use more calibration.samples"
        )
