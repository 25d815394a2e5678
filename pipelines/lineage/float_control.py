"""The float control: the float detector trained on as quantization-aware training and distillation train it.

Further training may help by itself, or harm; what bits cost is only seen against a float detector that had the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.lineage.kinds import FLOAT, QAT
from profiles import Manifest, Profile, fingerprint
from profiles.sections.distillation import DistillationSchedule
from profiles.sections.schedule import FloatSchedule, Optimisation, ProgressiveSchedule


def controls_of_stages(profile: Profile, *, groups: Sequence[tuple[str, ...]]) -> list[Profile]:
    """One profile for each training of the control, the next to start from what the one before made.

    Stage by stage the same steps at the same rates on the same batches in the same order, then those of distillation
    on the detection loss alone; batch norms are held, and scenes of further seeds stay out, as they do there.

    Args:
        profile: Of the compressed detector.
        groups: The parts that each stage adds.

    >>> import profiles
    >>> first, last = controls_of_stages(profiles.load("w4a6"), groups=[("backbone", "neck", "encoder", "decoder")])
    >>> first.float_training.steps, first.float_training.start_from, last.float_training.steps
    (470, 'zoo', 60)
    """
    stages = [_of_stage(profile.qat, parts=group, steps=profile.qat.steps(group)) for group in groups]
    distillation = profile.distillation.schedule
    trainings = [*stages, _training(distillation, steps=distillation.steps)]
    trainings = [training for training in trainings if training.steps]
    if trainings:
        trainings[0] = trainings[0].model_copy(update={"start_from": profile.model.weights})
    same = {"name": f"{profile.name}-control", "data": profile.data.model_copy(update={"more_seeds": ()})}
    return [profile.model_copy(update={**same, "float_training": training}) for training in trainings]


def training_of_control(made: Manifest, *, before: Manifest) -> FloatSchedule | None:
    """How the control trains where a sealed model was trained; None where that took no step.

    Args:
        made: Of a stage of quantization-aware training, or of what was trained on after the last one.
        before: Of the model it was made from.

    Raises:
        ValueError: Its schedule was recorded with fields that are not known any more.
    """
    steps, stated = int(str(made.metrics.get("steps", 0))), made.profile
    if not steps:
        return None
    if made.kind == QAT:
        added = [part for part in _parts(made) if part not in _parts(before)]
        return _of_stage(ProgressiveSchedule.model_validate(stated.get("qat")), parts=added, steps=steps)
    section: Any = stated.get("distillation") or {}
    return _training(DistillationSchedule.model_validate(section.get("schedule")), steps=steps)


def float_key(
    training: FloatSchedule,
    *,
    settings: Mapping[str, Any],
    start: str | None,
    split: str,
    processes: int,
    backbone: str | None = None,
) -> str:
    """Key of a float training: everything that decides its weights.

    Args:
        training: Its schedule.
        settings: Content of the whole profile; model, queue and seed are read.
        start: Digest of the artifact it starts from; None from scratch.
        split: Digest of the training samples.
        processes: How many processes train together, each on a batch of its own.
        backbone: Digest of the artifact whose image backbone it starts from.
    """
    data = settings["data"]
    return fingerprint(
        {
            "kind": FLOAT,
            "model": {**settings["model"], "weights": None},
            "training": training.content() | {"start_from": start} | ({"backbone_from": backbone} if backbone else {}),
            "queue": [data["queue_length"], data["drop_one_frame"]],
            "data": split,
            "seed": settings["seed"],
            **({"processes": processes} if processes > 1 else {}),
        }
    )


def _parts(made: Manifest) -> list[str]:
    """The quantized parts of a stage; none of what was made before the first one."""
    parts = made.data.get("parts")
    return [str(part) for part in parts] if isinstance(parts, list) else []


def _of_stage(schedule: ProgressiveSchedule, *, parts: Sequence[str], steps: int) -> FloatSchedule:
    """The training beside a stage that adds these parts."""
    stage = schedule.of_stage(parts)
    return _training(stage, steps=steps, parts=tuple(parts), other_multiplier=schedule.other_multiplier)


def _training(
    schedule: Optimisation, *, steps: int, parts: tuple[str, ...] | None = None, other_multiplier: float = 1.0
) -> FloatSchedule:
    if parts is not None and other_multiplier == 1:
        parts = None
    same = {name: getattr(schedule, name) for name in Optimisation.model_fields}
    stated = {"steps": steps, "freeze_batchnorm": True, "parts": parts, "other_multiplier": other_multiplier}
    return FloatSchedule.model_validate(same | stated)
