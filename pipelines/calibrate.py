"""calibrate: ranges from ordered samples of the train split; evaluation samples are refused."""

from __future__ import annotations

from typing import Any

from pipelines.assemble import float_detector, package_versions
from pipelines.outcome import dry, finished
from pipelines.quantized import PARTS, quantized_cost, quantized_from_float, write_quantized
from pipelines.ranges import observe, refuse_evaluation_samples
from pipelines.samples import load_split
from pipelines.scoring import evaluation_split
from pipelines.store import Artifact, Store
from profiles import Profile, fingerprint
from qdbev.data.calibration import calibration_samples
from qdbev.quantization import trainable_parameters

KIND = "calibration"


def run(
    profile: Profile,
    *,
    store: Store,
    method: str | None = None,
    force: bool = False,
    dry_run: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Calibrate the float detector and seal the quantized one.

    Args:
        profile: Its sections ``model``, ``quantization`` and ``calibration`` and the train split decide the result.
        store: Where the artifact goes.
        method: ``ptq``; in place of the profile's.
        force: Calibrate again even if it is sealed.
        dry_run: Say what would be done.
        progress: Show bars.

    Raises:
        ValueError: Method dfq, a float profile, or calibration samples that the evaluation uses.
    """
    section = profile.calibration
    if (method or section.method) != "ptq":
        raise ValueError("method dfq is not built yet: calibrate with --method ptq (the default)")
    if profile.quantization.is_float:
        raise ValueError(f"profile {profile.name} quantizes nothing; choose one such as w4a6")
    if dry_run:
        bits = profile.quantization.label
        return dry([f"calibrate {profile.model.name} to {bits} on {section.samples} samples of the train split"])
    split = load_split(profile.data, name="train", progress=progress)
    samples = calibration_samples(split.samples, count=section.samples, seed=section.seed)
    tokens = refuse_evaluation_samples(samples, evaluated=evaluation_split(profile, progress=progress))
    detector, source = float_detector(profile, store=store)
    key = fingerprint(
        {
            "kind": KIND,
            "parents": source.digest,
            "quantization": profile.quantization.content(),
            "calibration": section.content(),
            "tokens": tokens,
            "data": split.digest,
        }
    )
    if (known := store.find(KIND, key=key)) and not force:
        return _outcome(known, message="already calibrated; --force does it again")
    trainable = trainable_parameters(detector)
    quantized = quantized_from_float(detector, profile=profile, split=split)
    observe(quantized, split=split, samples=samples, profile=profile, progress=progress)
    complete = quantized.switched(PARTS)
    cost = quantized_cost(complete, profile=profile, split=split, trainable=trainable)
    artifact = store.seal(
        KIND,
        profile=profile,
        key=key,
        write=lambda folder: write_quantized(folder, quantized=complete, profile=profile),
        parents={"float": source.digest},
        data={"train": split.digest, "calibration_tokens": tokens},
        metrics=cost | {"trainable": trainable},
        packages=package_versions(),
        replace=force,
    )
    return _outcome(artifact, message=f"calibrated on {len(tokens)} samples of the train split")


def _outcome(artifact: Artifact, *, message: str) -> dict[str, Any]:
    return finished(artifact, metrics=dict(artifact.manifest.metrics), messages=[message])
