"""What the bits of every layer lose, by the criterion of a bit plan: measured, or known from an earlier plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pipelines.assembly.detector import Detector, build_detector, refuse_unable
from pipelines.assembly.quantized import detector_plan
from pipelines.assembly.samples import Split
from pipelines.bit_planning.candidates import Choice, Measured, candidate_detectors
from pipelines.bit_planning.hessian_error import hessian_losses
from pipelines.bit_planning.output_error import output_losses
from pipelines.bit_planning.problem import measured_tensors
from pipelines.bit_planning.score_drop import score_losses, scored_split
from pipelines.lineage.bit_plan import KIND, plan_content
from pipelines.store.artifacts import Store
from profiles import Profile, fingerprint
from qdbev.data.nuscenes.records import Sample
from qdbev.quantization import FLOAT_BITS, Folding


def losses_key(profile: Profile, *, source: str, data: str, tokens: Sequence[str]) -> str:
    """The fingerprint of all that decides the losses; other budgets are met from the same ones.

    Args:
        profile: Its model, quantization, calibration and bit_plan sections; with Hessian traces those of training too,
            with scores what is scored.
        source: Digest of the float artifact.
        data: Digest of the train split.
        tokens: The calibration samples.
    """
    section = profile.bit_plan
    decides: dict[str, Any] = {
        "parent": source,
        "model": profile.model.content() | {"weights": None},
        "quantization": profile.quantization.content(),
        "calibration": profile.calibration.content(),
        "criterion": [section.criterion, section.candidates, section.samples, measured_tensors(profile)],
        "data": data,
        "tokens": list(tokens),
    }
    if section.criterion == "hessian":
        queue = [profile.data.queue_length, profile.data.drop_one_frame]
        decides |= {"seed": profile.seed, "probes": section.probes, "qat": profile.qat.content(), "queue": queue}
    if section.criterion == "nds":
        decides |= {"scenes": section.scenes, "max_boxes": profile.evaluation.max_boxes}
    if section.observer != "calibration":
        decides["observer"] = section.observer
    return fingerprint(decides)


def measured_losses(
    detector: Detector,
    folding: Folding,
    *,
    profile: Profile,
    split: Split,
    samples: Sequence[Sample],
    scratch: Callable[[], Path],
    progress: bool = False,
) -> Measured:
    """The losses of every layer's choices by the profile's criterion.

    Args:
        detector: Float, folded.
        folding: How.
        profile: See ``run``.
        split: Of training.
        samples: Calibration samples of it.
        scratch: Makes the folder that keeps what an interrupted measurement goes on from.
        progress: Show bars.
    """
    tensors = measured_tensors(profile)
    at = partial(candidate_detectors, profile=profile, split=split, samples=samples, progress=progress)
    copies = dict(at(detector, folding, inputs="inputs" in tensors))
    if profile.bit_plan.criterion == "hessian":
        return hessian_losses(copies, profile=profile, split=split, samples=samples)
    output = output_losses(copies, profile=profile, split=split, samples=samples, tensors=tensors, progress=progress)
    if profile.bit_plan.criterion == "output":
        return Measured(output, {"traces": {}})
    return score_losses(
        copies,
        output=output,
        profile=profile,
        split=scored_split(split, profile=profile),
        tensors=tensors,
        scratch=scratch(),
        progress=progress,
    )


def known_losses(store: Store, *, measured: str) -> Measured | None:
    """The losses of an earlier plan that were measured in the same way, such as one for another budget; or None."""
    for artifact in store.list():
        if artifact.manifest.kind == KIND and artifact.manifest.data.get("measured") == measured:
            content = plan_content(store.verify(artifact))
            found = {Choice(one["path"], one["tensors"], one["bits"]): one["loss"] for one in content["losses"]}
            return Measured(found, {name: content[name] for name in ("traces", "scores") if name in content})
    return None


def evaluations(profile: Profile) -> int:
    """How many networks criterion nds scores: the float one, and each layer's weights, and inputs, at each width."""
    detector = build_detector(profile.model)
    refuse_unable(detector, ability="stages")
    sites = detector_plan(detector, section=profile.quantization).quantized
    inputs = [site for site in sites if site.activation_bits < FLOAT_BITS and "inputs" in measured_tensors(profile)]
    return 1 + len(profile.bit_plan.candidates) * (len(sites) + len(inputs))
