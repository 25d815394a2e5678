"""Sealed bit plans: what ``quantization.plan`` names, found in the store and read; no torch."""

from __future__ import annotations

import json
from typing import Any

from pipelines.store.artifacts import Artifact, Store
from profiles import Profile

KIND = "bit-plan"
FILE = "bit-plan.json"


def with_plan_found(profile: Profile, *, store: Store) -> Profile:
    """The profile with the digest of its bit plan in place of its name, so that keys depend on what it holds.

    Args:
        profile: Its ``quantization.plan`` is null or any name the store opens.
        store: Where the plan is.

    Raises:
        MissingArtifact: There is no such artifact.
        ValueError: It is no bit plan.
    """
    plan = _plan_of(profile, store=store)
    if plan is None:
        return profile
    section = profile.quantization.model_copy(update={"plan": plan.digest})
    return profile.model_copy(update={"quantization": section})


def planned_bits(profile: Profile, *, store: Store) -> dict[str, tuple[int, int]] | None:
    """Bits of weights and inputs by the path of each layer; None for a profile without a plan.

    Raises:
        MissingArtifact: There is no such artifact.
        ValueError: It is no bit plan.
    """
    plan = _plan_of(profile, store=store)
    if plan is None:
        return None
    return {one["path"]: (int(one["weight_bits"]), int(one["activation_bits"])) for one in plan_content(plan)["layers"]}


def samples_of_plan(profile: Profile, *, store: Store) -> list[str]:
    """Tokens of the samples that a profile's bit plan was chosen on; none without a plan."""
    plan = _plan_of(profile, store=store)
    tokens: Any = [] if plan is None else plan.manifest.data.get("calibration_tokens", [])
    return [str(token) for token in tokens]


def plan_content(plan: Artifact) -> dict[str, Any]:
    """What a bit plan says: the bits of each layer, all measured losses, the front."""
    document: dict[str, Any] = json.loads(plan.file(FILE).read_text(encoding="utf-8"))
    return document


def bits_label(artifact: Artifact) -> str:
    """Bits of an artifact as tables write them: those of its profile; of a plan the mean ones, or else its digest.

    Args:
        artifact: A quantized model, or anything else that was made with a quantization section.
    """
    mean: Any = artifact.manifest.metrics.get("mean_bits")
    if isinstance(mean, dict):
        return mixed_label(mean["weights"], mean["inputs"])
    section: Any = artifact.manifest.profile["quantization"]
    if plan := section.get("plan"):
        return f"mixed bits of plan {plan[:12]}"
    return f"W{section['weight_bits']}A{section['activation_bits']}"


def mixed_label(weights: float, inputs: float) -> str:
    """Mean bits as tables write them.

    >>> mixed_label(4.04, 6.0)
    'mixed W4.0A6.0'
    """
    return f"mixed W{weights:.1f}A{inputs:.1f}"


def _plan_of(profile: Profile, *, store: Store) -> Artifact | None:
    """The plan that a profile names, opened; None where it names none."""
    name = profile.quantization.plan
    if name is None:
        return None
    artifact = store.open(name)
    if artifact.manifest.kind != KIND:
        raise ValueError(
            f"{artifact.path.name} is a {artifact.manifest.kind} artifact, which holds no bit plan; "
            "`qdbev sensitivity --plan` makes one"
        )
    return artifact
