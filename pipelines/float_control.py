"""The float control: the float detector trained on for as long as quantization-aware training and distillation take.

Further training may help by itself; what bits cost is only seen against a float detector that had as much of it.
"""

from __future__ import annotations

from typing import Any

from profiles import Profile
from profiles.schedule import PARTS, FloatSchedule, Optimisation


def control_of(profile: Profile) -> Profile:
    """The profile whose float training is the control of this one's QAT and distillation.

    It starts from the same weights and sees the same batches in the same order, at the rate of the last stage with
    every part training, batch norms held, for all their steps in one go.

    Args:
        profile: Of the compressed detector.

    >>> import profiles
    >>> control = control_of(profiles.load("w4a6"))
    >>> control.float_training.steps, control.float_training.start_from, control.name
    (530, 'zoo', 'w4a6-control')
    """
    schedule = profile.qat.of_stage(PARTS)
    own: dict[str, Any] = {name: getattr(schedule, name) for name in Optimisation.model_fields}
    own |= {"steps": profile.qat.steps() + profile.distillation.schedule.steps, "freeze_batchnorm": True}
    training = FloatSchedule(**own, start_from=profile.model.weights)
    return profile.model_copy(update={"name": f"{profile.name}-control", "float_training": training})
