"""Objectives of distillation, a row each: what one needs of ``Features``, and its loss with a profile's settings.

To add one: its loss in ``qdbev.distillation``, its row here, and in ``profiles.sections.distillation`` its name, its
word for tables and its section.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from profiles import Profile
from profiles.sections.distillation import DistillationProfile, ObjectiveName
from qdbev.detectors.features import Features
from qdbev.distillation.cwd import bev_channel_wise_loss, image_channel_wise_loss
from qdbev.distillation.hints import hint_loss, image_hint_loss
from qdbev.distillation.outputs import box_output_loss, class_output_loss
from qdbev.distillation.vgd import Reading, view_guided_loss
from qdbev.distillation.weight import AutoWeight, FixedWeight, Weight

T = TypeVar("T")
Terms = dict[str, Tensor]
Compare = Callable[[Features, Features], tuple[Tensor, Terms]]

IMAGE, BEV, MASK, LOGITS, CODE = "image", "bev_BQC", "bev_mask_BNQD", "logits_LBKC", "code_LBKD"
OUTPUTS = frozenset({LOGITS, CODE})
_FIELDS = {"image": IMAGE, "bev": BEV, "mask": MASK, "logits": LOGITS, "code": CODE}  # by the names of profiles
_OF_GEOMETRY = frozenset({MASK})  # where both see the same points the student's is taken, and none is kept
_WORDS = {
    IMAGE: "image features",
    BEV: "BEV features",
    MASK: "a mask of which camera sees which BEV cell",
    LOGITS: "class scores of object queries",
    CODE: "box codes of object queries",
}


@dataclass(frozen=True)
class ObjectiveRow:
    """One objective that a profile can name."""

    name: ObjectiveName
    needs: Callable[[DistillationProfile], Collection[str]]
    """Fields of ``Features`` that must be there."""
    loss: Callable[[Features, Features, Profile], tuple[Tensor, Terms]]
    """Of student's and teacher's features, the loss and what else the curve shows."""


@dataclass(frozen=True)
class Objective:
    """An objective of a profile: one loss beside the detection loss."""

    name: ObjectiveName
    needs: frozenset[str]
    """Fields of ``Features`` that must be there."""
    compare: Compare
    """Of student's and teacher's features, the loss and its terms for the curve."""
    weight: Weight
    """Fixed, or set by the first steps; it is part of the resume state."""


def objectives(profile: Profile) -> list[Objective]:
    """The objectives of a profile, in its order."""
    section = profile.distillation
    return [
        Objective(
            name,
            needs_of(name, section=section),
            partial(_with_term, row=_ROWS[name], profile=profile),
            _weight(name, section=section),
        )
        for name in section.objectives
    ]


def needs_of(name: ObjectiveName, *, section: DistillationProfile) -> frozenset[str]:
    """Fields of ``Features`` that an objective needs; the view-guided one's follow from how it combines its sides."""
    return frozenset(_ROWS[name].needs(section))


def taught(profile: Profile) -> frozenset[str]:
    """Fields of ``Features`` that a profile's objectives need of the teacher."""
    section = profile.distillation
    needed = frozenset[str]().union(*(needs_of(name, section=section) for name in section.objectives))
    return needed if profile.model.mask_follows_boxes else needed - _OF_GEOMETRY


def refuse_missing(section: DistillationProfile, *, given: Collection[str], whose: str) -> None:
    """Refuse a profile whose objectives need what a detector does not give.

    Args:
        section: Names the objectives.
        given: Fields of ``Features`` that are there.
        whose: The detector, for the sentence.

    Raises:
        ValueError: Naming the first such objective, what it lacks, and the objectives that would run.
    """
    for name in section.objectives:
        if lacking := [word for field, word in _WORDS.items() if field in needs_of(name, section=section) - set(given)]:
            possible = [row.name for row in OBJECTIVES if needs_of(row.name, section=section) <= set(given)]
            other = (
                f"distillation.objectives can be {', '.join(possible)}" if possible else "no other objective can run"
            )
            raise ValueError(f"objective {name} needs {' and '.join(lacking)}, which {whose} does not give; {other}")


def refuse_untapped(profile: Profile) -> None:
    """Refuse a detector that has no taps on what its distillation compares, before anything is trained for it.

    Raises:
        ValueError: It has none at all, or an objective needs others.
    """
    model = profile.model
    if not model.tapped:
        raise ValueError(
            f"distillation compares features, and {model.name} is known by its mmdet3d config alone, which names no "
            "taps on them: state mmdet3d.taps, or run qat-progressive, which needs none"
        )
    given = [_FIELDS[name] for name in model.tapped]
    refuse_missing(profile.distillation, given=given, whose=f"the tapped {model.name}")


def given_by(features: Features) -> frozenset[str]:
    """Which fields are there."""
    return frozenset(field for field in _WORDS if getattr(features, field) is not None)


def weighed(
    wanted: Sequence[Objective], *, learned: Features, teacher: Features, detection: Tensor
) -> tuple[Tensor, Mapping[str, Tensor]]:
    """The detection loss with every objective added by its weight, and all terms for the curve."""
    total, terms = detection, dict[str, Tensor]()
    for objective in wanted:
        loss, parts = objective.compare(learned, teacher)
        share = objective.weight(loss, detection=detection)
        total = total + share
        terms |= {**parts, f"{objective.name}_weighted": share.detach()}
    return total, terms


def _view_guided(student: Features, teacher: Features, profile: Profile) -> tuple[Tensor, Terms]:
    reading = _reading(profile.distillation)
    has_image, has_bev, has_mask = (side in reading.sides for side in ("image", "bev", "mask"))
    seen = teacher if profile.model.mask_follows_boxes else student
    return view_guided_loss(
        student.image if has_image else None,
        teacher_image=teacher.image if has_image else None,
        student_bev=student.bev_BQC if has_bev else None,
        teacher_bev=teacher.bev_BQC if has_bev else None,
        bev_mask_BNQD=seen.bev_mask_BNQD if has_mask else None,
        reading=reading,
    )


def _image_channel_wise(student: Features, teacher: Features, profile: Profile) -> tuple[Tensor, Terms]:
    temperature = profile.distillation.cwd_image.temperature
    return image_channel_wise_loss(
        _there(student.image), teacher_image=_there(teacher.image), temperature=temperature
    ), {}


def _bev_channel_wise(student: Features, teacher: Features, profile: Profile) -> tuple[Tensor, Terms]:
    temperature = profile.distillation.cwd_bev.temperature
    return bev_channel_wise_loss(
        _there(student.bev_BQC), teacher_BQC=_there(teacher.bev_BQC), temperature=temperature
    ), {}


def _image_hint(student: Features, teacher: Features, _profile: Profile) -> tuple[Tensor, Terms]:
    return image_hint_loss(_there(student.image), teacher_image=_there(teacher.image)), {}


def _bev_hint(student: Features, teacher: Features, _profile: Profile) -> tuple[Tensor, Terms]:
    return hint_loss(_there(student.bev_BQC), teacher=_there(teacher.bev_BQC)), {}


def _class_output(student: Features, teacher: Features, profile: Profile) -> tuple[Tensor, Terms]:
    settings = profile.distillation.output_class
    return class_output_loss(
        _there(student.logits_LBKC),
        teacher_LBKC=_there(teacher.logits_LBKC),
        temperature=settings.temperature,
        layers=settings.layers,
        weighting=settings.weighting,
    ), {}


def _box_output(student: Features, teacher: Features, profile: Profile) -> tuple[Tensor, Terms]:
    settings = profile.distillation.output_box
    return box_output_loss(
        _there(student.code_LBKD),
        teacher_LBKD=_there(teacher.code_LBKD),
        teacher_LBKC=_there(teacher.logits_LBKC),
        code_weights_D=torch.tensor(profile.model.code_weights),
        layers=settings.layers,
        weighting=settings.weighting,
    ), {}


def _reading(section: DistillationProfile) -> Reading:
    return Reading(**{field.name: getattr(section, field.name) for field in fields(Reading)})


OBJECTIVES = (
    ObjectiveRow("vgd", lambda section: [_FIELDS[side] for side in _reading(section).sides], _view_guided),
    ObjectiveRow("cwd_image", lambda _: [IMAGE], _image_channel_wise),
    ObjectiveRow("cwd_bev", lambda _: [BEV], _bev_channel_wise),
    ObjectiveRow("fitnet_image", lambda _: [IMAGE], _image_hint),
    ObjectiveRow("fitnet_bev", lambda _: [BEV], _bev_hint),
    ObjectiveRow("output_class", lambda _: [LOGITS], _class_output),
    ObjectiveRow("output_box", lambda _: [LOGITS, CODE], _box_output),
)
_ROWS = {row.name: row for row in OBJECTIVES}


def _with_term(student: Features, teacher: Features, *, row: ObjectiveRow, profile: Profile) -> tuple[Tensor, Terms]:
    loss, terms = row.loss(student, teacher, profile)
    return loss, {row.name: loss.detach(), **terms}


def _weight(name: ObjectiveName, *, section: DistillationProfile) -> Weight:
    settings = section.settings(name)
    if settings.weight == "auto":
        return AutoWeight(share=settings.auto_share, steps=section.auto_steps)
    return FixedWeight(settings.weight)


def _there(value: T | None) -> T:
    assert value is not None  # refuse_missing has seen to it
    return value
