"""Bits of their own for every layer, at the size and the operations of the uniform profile, without any training."""

from __future__ import annotations

from typing import Any

from pipelines.assembly.job import Job
from pipelines.assembly.weights import float_artifact
from pipelines.bit_planning.choice import bit_plan_of, refuse_unplannable
from pipelines.calibration.calibrated import calibrated
from pipelines.scoring.evaluation import evaluate_artifact
from pipelines.store.artifacts import Artifact
from profiles import Profile
from qdbev.quantization import FLOAT_BITS


def with_own_bits(job: Job) -> Job:
    """The same job with the bits of a plan, put on their grid part by part without a step.

    A budget that the profile states is kept. Where it states none, the plan may take as much as the uniform profile
    takes: its share of the float weights' size, and of the float detector's bit operations, as both are sealed.

    Args:
        job: Of uniform bits; its float detector is scored and it is calibrated first, where that was not done.

    Raises:
        ValueError: A profile that no plan can be made with.
    """
    profile = job.profile
    if not profile.bit_plan.budgets:
        profile = _within(profile, bops=_bit_operations(job))
    refuse_unplannable(profile)
    plan = bit_plan_of(job.of(profile)).artifact
    return job.of(untrained(profile, plan=plan.digest))


def untrained(profile: Profile, *, plan: str) -> Profile:
    """The profile with a bit plan and neither a step of training nor of distillation."""
    quantization = profile.quantization.model_copy(update={"plan": plan})
    qat = profile.qat.model_copy(update={"steps_per_stage": 0, "evaluate_each_stage": False})
    schedule = profile.distillation.schedule.model_copy(update={"steps": 0})
    distillation = profile.distillation.model_copy(update={"schedule": schedule})
    return profile.model_copy(update={"quantization": quantization, "qat": qat, "distillation": distillation})


def _within(profile: Profile, *, bops: float) -> Profile:
    """The profile with the budgets of its own uniform bits."""
    size = profile.quantization.weight_bits / FLOAT_BITS
    return profile.model_copy(update={"bit_plan": profile.bit_plan.model_copy(update={"size": size, "bops": bops})})


def _bit_operations(job: Job) -> float:
    """Bit operations of the uniform detector as a share of the float one's."""
    whole = evaluate_artifact(job, model=float_artifact(job))
    return _gbops(calibrated(job).artifact) / _gbops(whole)


def _gbops(artifact: Artifact) -> float:
    parts: Any = artifact.manifest.metrics["gbops"]
    return float(parts["total"])
