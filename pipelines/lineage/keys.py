"""Keys: what decides each kind of artifact, one function a kind; equal keys mean that the work was done before.

A key is the fingerprint of profile sections, digests of parents and data, and little else. What only says where or how
fast (device, workers, cache) does not enter. Sealed stores are found by these keys: what enters, and under which name,
stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.lineage import kinds
from pipelines.lineage.float_control import float_key
from pipelines.store import processes
from profiles import Profile, fingerprint
from profiles.sections.schedule import Optimisation

__all__ = [
    "calibration_key",
    "compression_key",
    "evaluation_key",
    "export_key",
    "float_key",
    "imported_key",
    "losses_key",
    "plan_key",
    "random_key",
    "sensitivity_key",
    "training_key",
]

# what these lead to is in `steps`, `parts` and the learning rate
_NOT_A_RESULT = ("stages", "steps_per_stage", "stage_multipliers", "evaluate_each_stage")


def imported_key(profile: Profile, *, sha256: str) -> str:
    """Float weights of a foreign file: the model, and what the file holds."""
    return fingerprint({"kind": kinds.FLOAT, **profile.deciding("model"), "file": sha256})


def random_key(profile: Profile) -> str:
    """Float weights that mean nothing: the model and the seed."""
    return fingerprint({"kind": kinds.FLOAT, **profile.deciding("model"), "random": profile.seed})


def calibration_key(profile: Profile, *, source: str, tokens: Sequence[str], data: str) -> str:
    """A calibration: the float weights, the samples, and how ranges are chosen.

    Args:
        profile: Its sections model, quantization (with the digest of its bit plan) and calibration.
        source: Digest of the float artifact.
        tokens: Of the calibration samples.
        data: Digest of the train split.
    """
    sections = profile.deciding("model", "quantization", "calibration")
    return fingerprint({"kind": kinds.CALIBRATION, "parents": source, **sections, "tokens": list(tokens), "data": data})


def training_key(
    kind: str,
    *,
    parent: str,
    profile: Profile,
    schedule: Optimisation,
    steps: int,
    data: str,
    extra: Mapping[str, Any],
) -> str:
    """A stage of quantization-aware training, or what is trained on after it.

    Args:
        kind: Of the artifact.
        parent: Digest of the model it starts from.
        profile: Its sections model, quantization and calibration, the queue of its data, and its seed.
        schedule: Of this training.
        steps: How many.
        data: Digest of the train split.
        extra: Stage and parts, or the objectives of distillation.
    """
    return fingerprint(
        {
            "kind": kind,
            "parent": parent,
            **profile.deciding("model", "quantization", "calibration"),
            "schedule": {name: value for name, value in schedule.content().items() if name not in _NOT_A_RESULT},
            "steps": steps,
            "queue": _queue(profile),
            "data": data,
            "seed": profile.seed,
            **processes.in_key(),
            **({"range of the images": "frozen"} if steps and profile.quantization.learns_activations else {}),
            **extra,
        }
    )


def evaluation_key(profile: Profile, *, model: str, settings: Mapping[str, Any]) -> str:
    """Scores: the model, its structure, and what is scored.

    Args:
        profile: Its section model, and its rig.
        model: Digest of the model.
        settings: ``split``, ``max_boxes`` and ``data``, the digest of the split.
    """
    sections = profile.deciding("model")
    structure = sections.pop("model")
    return fingerprint({"kind": kinds.EVALUATION, "model": model, "structure": structure, **sections, **settings})


def sensitivity_key(profile: Profile, *, level: str, source: str, data: str, tokens: Sequence[str]) -> str:
    """A table of parts or layers alone.

    Args:
        profile: Its sections model and quantization, its evaluation section and the seed of the intervals.
        level: ``part`` or ``module``.
        source: Digest of the float artifact.
        data: Digest of the split that is scored.
        tokens: Of the calibration samples.
    """
    return fingerprint(
        {
            "kind": kinds.SENSITIVITY,
            "parent": source,
            **profile.deciding("model", "quantization"),
            "tokens": list(tokens),
            "data": data,
            "max_boxes": profile.evaluation.max_boxes,
            "level": level,
            "resamples": profile.evaluation.bootstrap_resamples,
            "seed": profile.seed,
        }
    )


def losses_key(profile: Profile, *, tensors: Sequence[str], source: str, data: str, tokens: Sequence[str]) -> str:
    """What layers lose at each number of bits; plans under other budgets are chosen from the same losses.

    Args:
        profile: Its sections model, quantization, calibration and bit_plan; with Hessian traces those of training too,
            with scores what is scored.
        tensors: ``weights``, ``inputs`` or both.
        source: Digest of the float artifact.
        data: Digest of the train split.
        tokens: Of the calibration samples.
    """
    section = profile.bit_plan
    decides: dict[str, Any] = {
        "parent": source,
        **profile.deciding("model", "quantization", "calibration"),
        "criterion": [section.criterion, section.candidates, section.samples, tensors],
        "data": data,
        "tokens": list(tokens),
    }
    if section.criterion == "hessian":
        training = {**profile.deciding("qat"), "queue": _queue(profile)}
        decides |= {"seed": profile.seed, "probes": section.probes, **training}
    if section.criterion == "nds":
        decides |= {"scenes": section.scenes, "max_boxes": profile.evaluation.max_boxes}
    if section.observer != "calibration":
        decides["observer"] = section.observer
    return fingerprint(decides)


def plan_key(measured: str, *, profile: Profile, times: Mapping[str, str]) -> str:
    """A bit plan: what was measured, and the budgets it was chosen under.

    Args:
        measured: Key of the losses.
        profile: Its budgets.
        times: ``latency_table`` with its digest, where milliseconds are limited; else nothing.
    """
    section = profile.bit_plan
    target = {"target": section.target} if section.target else {}
    return fingerprint({"kind": kinds.BIT_PLAN, "measured": measured, "budgets": section.budgets, **target, **times})


def export_key(kind: str, *, model: str, settings: Mapping[str, Any]) -> str:
    """An export: the model, and what else decides the files.

    Args:
        kind: Of the artifact.
        model: Digest of the model.
        settings: The version of the format, the evaluation whose scores are stated, and the like.
    """
    return fingerprint({"kind": kind, "model": model, **settings})


def compression_key(profile: Profile, *, controls: bool, weights: str, data: str) -> str:
    """A whole compression, from what is stated alone, so that a repeated call needs no torch.

    Args:
        profile: All sections but those of float training and of choosing bits.
        controls: Whether float and QAT are trained as long beside it.
        weights: What says which float weights are meant.
        data: What says which data are meant.
    """
    settings = profile.content()
    for name in ("overrides", "device"):
        settings.pop(name, None)
    del settings["float_training"], settings["bit_plan"]
    decides = {"kind": kinds.COMPRESSION, "profile": settings, "weights": weights, "data": data}
    return fingerprint(decides | ({"controls": True} if controls else {}))


def _queue(profile: Profile) -> list[Any]:
    """The frames that a training sees at once."""
    return [profile.data.queue_length, profile.data.drop_one_frame]
