"""The calibrated detector of a profile: which samples set its ranges, the float run that is watched, the artifact."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm

from pipelines.assembly.detector import Detector, device_of, inputs_on
from pipelines.assembly.quantized import Bits, Quantized, quantized_cost, write_quantized
from pipelines.assembly.samples import Split, load_split, notes_on_motion, ordered_dataset
from pipelines.assembly.weights import float_artifact, float_detector, package_versions
from pipelines.calibration.methods import FloatRun, WorkRecord, calibration_row
from pipelines.calibration.smoothing import smoothed
from pipelines.lineage.bit_plan import planned_bits, samples_of_plan, with_plan_found
from pipelines.scoring.prediction import evaluation_split
from pipelines.store.artifacts import Artifact, Store
from pipelines.store.integrity import fetched
from profiles import Profile, fingerprint
from profiles.sections.schedule import PARTS
from qdbev.data.nuscenes.records import Sample
from qdbev.data.queues.batches import streaming_batches
from qdbev.data.queues.calibration import calibration_samples
from qdbev.quantization import observing, ranges_missing, trainable_parameters

KIND = "calibration"


def calibrated(profile: Profile, *, store: Store, force: bool = False, progress: bool = False) -> tuple[Artifact, str]:
    """The sealed calibration of a profile, made where it is missing.

    Args:
        profile: Its sections ``model``, ``quantization`` and ``calibration`` and the train split decide it.
        store: Where it is or goes.
        force: Calibrate again even if it is sealed.
        progress: Show bars.

    Returns:
        The artifact, and a sentence about it.

    Raises:
        ValueError: A float profile, or calibration samples that the evaluation uses.
    """
    section = profile.calibration
    if profile.quantization.is_float:
        raise ValueError(f"profile {profile.name} quantizes nothing; choose one such as w4a6")
    profile = with_plan_found(profile, store=store)
    float_artifact(profile, store=store)  # missing weights are said before scenes are made
    split = load_split(profile.data, name="train", progress=progress)
    samples = calibration_samples(split.samples, count=section.samples, seed=section.seed)
    tokens = refuse_evaluation_samples(samples, evaluated=evaluation_split(profile, progress=progress))
    detector, source = float_detector(profile, store=store)
    key = fingerprint(
        {
            "kind": KIND,
            "parents": source.digest,
            "model": profile.model.content() | {"weights": None},
            "quantization": profile.quantization.content(),
            "calibration": section.content(),
            "tokens": tokens,
            "data": split.digest,
        }
    )
    if not force and (known := store.find(KIND, key=key)):
        return known, "already calibrated; --force does it again"
    trainable = trainable_parameters(detector)
    bits, chosen_on = planned_bits(profile, store=store), samples_of_plan(profile, store=store)
    quantized, records = _with_ranges(
        detector, profile=profile, split=split, samples=samples, bits=bits, progress=progress
    )
    complete = quantized.switched(PARTS)
    cost = quantized_cost(complete, profile=profile, split=split, trainable=trainable)

    def write(folder: Path) -> None:
        write_quantized(folder, quantized=complete, profile=profile)
        for record in records:
            record.write(folder)

    artifact = store.seal(
        KIND,
        profile=profile,
        key=key,
        write=write,
        parents={"float": source.digest} | ({"plan": plan} if (plan := profile.quantization.plan) else {}),
        data={"train": split.digest, "calibration_tokens": list(dict.fromkeys([*tokens, *chosen_on]))},
        metrics=cost | {"trainable": trainable},
        packages=package_versions(),
        notes=notes_on_motion(split),
        replace=force,
    )
    message = f"calibrated on {len(tokens)} samples of the train split"
    return artifact, "; ".join([*(record.sentence() for record in records), message])


def _with_ranges(
    detector: Detector,
    *,
    profile: Profile,
    split: Split,
    samples: Sequence[Sample],
    bits: Bits | None,
    progress: bool,
) -> tuple[Quantized, list[WorkRecord]]:
    """Quantize a float detector and set its ranges by the profile's method; with records of what did more."""
    section = profile.calibration
    run = partial(run_samples, split=split, samples=samples, profile=profile)
    smoothing: list[WorkRecord] = []
    if section.smoothing is not None:
        smoothing = [
            smoothed(detector, profile=profile, split=split, run=partial(run, detector), alpha=section.smoothing)
        ]
    given = FloatRun(
        detector,
        profile=profile,
        split=split,
        observe=partial(observe, split=split, samples=samples, profile=profile, progress=progress),
        run=run,
        bits=bits,
        progress=progress,
    )
    quantized, records = calibration_row(section.method).calibrate(given)
    return quantized, [*smoothing, *records]


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
    split: Split,
    samples: Sequence[Sample],
    profile: Profile,
    parts: Sequence[str] | None = None,
    observer: str | None = None,
    unsigned: bool | None = None,
    progress: bool = False,
) -> None:
    """Set ranges from a run over samples in scene order, history reset at each scene's start.

    Args:
        quantized: The detector.
        split: Where the samples are from.
        samples: What is run.
        profile: Its model section and device.
        parts: Set the ranges of these parts alone, which run in float, the others as they are; None means all.
        observer: What chooses the ranges, in place of the profile's observers.
        unsigned: Whether activations that are never negative get unsigned integers, in place of the profile's word.
        progress: Show a bar.

    Raises:
        ValueError: A quantizer saw nothing.
    """
    detector = quantized.detector
    with observing(detector, parts=parts, observer=observer, unsigned_inputs=unsigned):
        run_samples(detector, split=split, samples=samples, profile=profile, progress=progress)
    if missing := ranges_missing(detector):
        raise ValueError(
            f"{len(missing)} quantizers saw nothing in calibration, first {missing[0]}: use more calibration.samples"
        )


def run_samples(
    detector: Detector, *, split: Split, samples: Sequence[Sample], profile: Profile, progress: bool = False
) -> None:
    """Run samples in scene order through a detector, in eval mode and on the profile's device; leaves no history."""
    device = device_of(profile)
    detector.eval().to(device).history.reset()
    dataset = ordered_dataset(split, model=profile.model, samples=samples)
    with torch.no_grad():
        batches = fetched(streaming_batches(dataset, streams=1, workers=0))
        for batch in tqdm(batches, total=len(dataset), desc="calibrate", unit="sample", disable=not progress):
            detector(inputs_on(batch, device=device), batch["data_samples"], mode="predict")
    detector.history.reset()
