"""The work of a command in frames of evaluation: the unit in which what is left and hours are reckoned.

Measured on 2026-11-30 with nano at W4A6, one thread of an AMD EPYC, CPU seconds of 32 samples each. A frame that is
evaluated took 0.067 s. A sample of a stage that trains one part took 0.12 to 0.18 s, one that trains all parts 0.24 s,
one of distillation with its teacher 0.34 to 0.37 s. A queue held two frames.
"""

from __future__ import annotations

from pipelines.store import processes
from profiles import Profile
from profiles.sections.schedule import Optimisation, stage_parts

BACKWARD, BACKWARD_OF_A_PART = 1.5, 0.25
"""Frames that the way back through all parts is worth, or through those alone that a stage adds."""


def float_training_work(profile: Profile) -> float:
    """Frames of a training of float weights; a share of its steps may be on the current frame alone."""
    schedule = profile.float_training
    history = (profile.data.queue_length - 1) * (1 - schedule.single_frame_share)
    back = BACKWARD if schedule.other_multiplier else BACKWARD_OF_A_PART
    return schedule.steps * schedule.batch_size * schedule.accumulation * (1 + history + back)


def stages_work(profile: Profile) -> list[float]:
    """Frames of each stage of QAT, its training alone."""
    qat = profile.qat
    groups = stage_parts(qat.stages, without=profile.model.empty_parts)
    back = BACKWARD if qat.other_multiplier else BACKWARD_OF_A_PART
    return [_frames(profile, schedule=qat, steps=qat.steps(group), back=back) for group in groups]


def distillation_work(profile: Profile, *, taught: bool = True) -> float:
    """Frames of distillation, its training alone; the teacher sees every frame of a queue, too."""
    schedule = profile.distillation.schedule
    teacher = profile.data.queue_length if taught else 0
    return _frames(profile, schedule=schedule, steps=schedule.steps, back=BACKWARD + teacher)


def qat_work(profile: Profile, *, scored: int) -> float:
    """Frames of ``qat-progressive``: calibration, all stages, and what is scored.

    Args:
        profile: What would be run.
        scored: Samples of an evaluation.
    """
    stages = stages_work(profile)
    evaluations = len(stages) + 2 if profile.qat.evaluate_each_stage else 0
    return profile.calibration.samples + sum(stages) + evaluations * scoring_work(scored)


def chain_work(profile: Profile, *, scored: int, controls: bool) -> list[float]:
    """Frames that each model of ``compress`` costs, made and scored.

    Args:
        profile: What would be run.
        scored: Samples of an evaluation.
        controls: Whether float and QAT are trained as long beside it.
    """
    stages, distils = stages_work(profile), bool(profile.distillation.schedule.steps)
    made = [0.0, profile.calibration.samples, *(stages if profile.qat.evaluate_each_stage else [sum(stages)])]
    made += [distillation_work(profile)] if distils else []
    if controls:
        longer = distillation_work(profile, taught=False)
        made += [sum(stages) + longer, *([longer] if distils else [])]
    return [frames + scoring_work(scored) for frames in made]


def scoring_work(samples: int) -> float:
    """Frames of an evaluation, for each of the processes that share them."""
    return samples / processes.count()


def _frames(profile: Profile, *, schedule: Optimisation, steps: int, back: float) -> float:
    return float(steps * schedule.batch_size * schedule.accumulation * (profile.data.queue_length + back))
