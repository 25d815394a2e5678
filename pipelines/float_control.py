"""The float control: the float detector trained on as quantization-aware training and distillation train it.

Further training may help by itself, or harm; what bits cost is only seen against a float detector that had the same.
"""

from __future__ import annotations

from collections.abc import Sequence

from profiles import Profile
from profiles.schedule import FloatSchedule, Optimisation


def controls_of_stages(profile: Profile, *, groups: Sequence[tuple[str, ...]]) -> list[Profile]:
    """One profile for each training of the control, the next to start from what the one before made.

    Stage by stage the same steps at the same rates on the same batches in the same order, then those of distillation
    on the detection loss alone; batch norms are held.

    Args:
        profile: Of the compressed detector.
        groups: The parts that each stage adds.

    >>> import profiles
    >>> first, last = controls_of_stages(profiles.load("w4a6"), groups=[("backbone", "neck", "encoder", "decoder")])
    >>> first.float_training.steps, first.float_training.start_from, last.float_training.steps
    (470, 'zoo', 60)
    """
    stages = [
        _training(
            profile.qat.of_stage(group),
            steps=profile.qat.steps(group),
            parts=group,
            other_multiplier=profile.qat.other_multiplier,
        )
        for group in groups
    ]
    distillation = profile.distillation.schedule
    trainings = [*stages, _training(distillation, steps=distillation.steps)]
    trainings = [one for one in trainings if one.steps]
    if trainings:
        trainings[0] = trainings[0].model_copy(update={"start_from": profile.model.weights})
    name = f"{profile.name}-control"
    return [profile.model_copy(update={"name": name, "float_training": training}) for training in trainings]


def _training(
    schedule: Optimisation, *, steps: int, parts: tuple[str, ...] | None = None, other_multiplier: float = 1.0
) -> FloatSchedule:
    if parts is not None and other_multiplier == 1:
        parts = None
    same = {name: getattr(schedule, name) for name in Optimisation.model_fields}
    own = {"steps": steps, "freeze_batchnorm": True, "parts": parts, "other_multiplier": other_multiplier}
    return FloatSchedule.model_validate(same | own)
