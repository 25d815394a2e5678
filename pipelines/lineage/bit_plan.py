"""Sealed bit plans: what ``quantization.plan`` names, found in the store and read; no torch."""

from __future__ import annotations

import json
from typing import Any

from pipelines.lineage.kinds import BIT_PLAN, BITS
from pipelines.store.artifacts import Artifact, Store


def open_plan(name: str, *, store: Store) -> Artifact:
    """The sealed bit plan that ``quantization.plan`` names.

    Raises:
        MissingArtifact: There is no such artifact.
        ValueError: It is no bit plan.
    """
    artifact = store.open(name)
    if artifact.manifest.kind != BIT_PLAN:
        raise ValueError(
            f"{artifact.path.name} is a {artifact.manifest.kind} artifact, which holds no bit plan; "
            "`qdbev sensitivity --plan` makes one"
        )
    return artifact


def bits_by_layer(plan: Artifact) -> dict[str, tuple[int, int]]:
    """Bits of weights and inputs by the path of each layer."""
    layers = plan_content(plan)["layers"]
    return {layer["path"]: (int(layer["weight_bits"]), int(layer["activation_bits"])) for layer in layers}


def samples_of(plan: Artifact) -> list[str]:
    """Tokens of the samples that a bit plan was chosen on."""
    tokens: Any = plan.manifest.data.get("calibration_tokens", [])
    return [str(token) for token in tokens]


def plan_content(plan: Artifact) -> dict[str, Any]:
    """What a bit plan says: the bits of each layer, all measured losses, the front."""
    document: dict[str, Any] = json.loads(plan.file(BITS).read_text(encoding="utf-8"))
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
