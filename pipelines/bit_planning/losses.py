"""What the bits of every layer lose, by the criterion of a bit plan: measured, or known from an earlier plan."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pipelines.assembly.detector import Detector, build_detector, refuse_unable
from pipelines.assembly.job import Job
from pipelines.assembly.quantized import detector_plan
from pipelines.bit_planning.candidates import Choice, Measured, candidate_detectors
from pipelines.bit_planning.hessian_error import hessian_losses
from pipelines.bit_planning.output_error import output_losses
from pipelines.bit_planning.problem import measured_tensors
from pipelines.bit_planning.score_drop import score_losses, scored_split
from pipelines.lineage.bit_plan import plan_content
from pipelines.lineage.kinds import BIT_PLAN
from pipelines.store import processes
from pipelines.store.artifacts import Store
from profiles import Profile
from qdbev.quantization import FLOAT_BITS, Folding


def measured_losses(
    detector: Detector,
    folding: Folding,
    *,
    job: Job,
    scratch: Callable[[], Path],
) -> Measured:
    """The losses of every layer's choices by the profile's criterion.

    Args:
        detector: Float, folded.
        folding: How.
        job: Its section ``bit_plan`` says by which criterion, on its calibration samples.
        scratch: Makes the folder that keeps what an interrupted measurement goes on from.
    """
    profile, tensors = job.profile, measured_tensors(job.profile)
    candidates = list(profile.bit_plan.candidates)
    mine = processes.share(candidates)
    wanted = mine if profile.bit_plan.criterion == "output" else candidates
    copies = dict(candidate_detectors(detector, folding, job=job, bits=wanted, inputs="inputs" in tensors))
    if profile.bit_plan.criterion == "hessian":
        return hessian_losses(copies, job=job)
    output = output_losses({bits: copies[bits] for bits in mine}, job=job, tensors=tensors)
    if profile.bit_plan.criterion == "output":
        return Measured(output, {"traces": {}})
    scored = scored_split(job.split("train"), profile=profile)
    return score_losses(copies, output=output, job=job, split=scored, tensors=tensors, scratch=scratch())


def known_losses(store: Store, *, measured: str) -> Measured | None:
    """The losses of an earlier plan that were measured in the same way, such as one for another budget; or None."""
    for artifact in store.list():
        if artifact.manifest.kind == BIT_PLAN and artifact.manifest.data.get("measured") == measured:
            content = plan_content(store.verify(artifact))
            losses = {Choice(row["path"], row["tensors"], row["bits"]): row["loss"] for row in content["losses"]}
            return Measured(losses, {name: content[name] for name in ("traces", "scores") if name in content})
    return None


def choosing_work(profile: Profile, *, scene_samples: int) -> float | None:
    """Frames of all that is measured, if no choice shared work with another; None by traces of a Hessian.

    Ranges are set at each width where inputs are chosen too. Then the float network runs once, and each choice over the
    samples that are compared, or the scenes that are scored.

    Args:
        profile: Its section ``bit_plan`` says what.
        scene_samples: Of ``bit_plan.scenes`` scenes of training.
    """
    section, samples = profile.bit_plan, profile.calibration.samples
    if section.criterion == "hessian":
        return None
    ranges = len(section.candidates) * samples if "inputs" in measured_tensors(profile) else 0
    compared = section.samples + (scene_samples if section.criterion == "nds" else 0)
    return float(ranges + samples + evaluations(profile) * compared)


def evaluations(profile: Profile) -> int:
    """How many networks criterion nds scores: the float one, and each layer's weights, and inputs, at each width."""
    detector = build_detector(profile.model, rig=profile.data.rig)
    refuse_unable(detector, ability="stages")
    sites = detector_plan(detector, section=profile.quantization).quantized
    inputs = [site for site in sites if site.activation_bits < FLOAT_BITS and "inputs" in measured_tensors(profile)]
    return 1 + len(profile.bit_plan.candidates) * (len(sites) + len(inputs))
