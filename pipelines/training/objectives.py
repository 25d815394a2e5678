"""Objectives of distillation: profile section -> losses on student's and teacher's features, each with its weight.

An objective says what of the features it needs, so that a detector that does not have it is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar, get_args

import torch
from torch import Tensor

from profiles import Profile
from profiles.sections.distillation import DistillationProfile, Weighed
from profiles.sections.distillation import Objective as Name
from profiles.sections.model import BEVFORMER
from qdbev.detectors.features import Features
from qdbev.distillation import (
    AutoWeight,
    FixedWeight,
    Weight,
    bev_channel_wise_loss,
    box_output_loss,
    class_output_loss,
    hint_loss,
    image_channel_wise_loss,
    image_hint_loss,
    view_guided_loss,
)

T = TypeVar("T")
Terms = dict[str, Tensor]
Compare = Callable[[Features, Features], tuple[Tensor, Terms]]
_Plain = Callable[[Features, Features], Tensor]

IMAGE, BEV, MASK, LOGITS, CODE = "image", "bev_BQC", "bev_mask_BNQD", "logits_LBKC", "code_LBKD"
OUTPUTS = frozenset({LOGITS, CODE})
_OF_GEOMETRY = frozenset({MASK})  # student and teacher see the same points, so the student's is taken
_WORDS = {
    IMAGE: "image features",
    BEV: "BEV features",
    MASK: "a mask of which camera sees which BEV cell",
    LOGITS: "class scores of object queries",
    CODE: "box codes of object queries",
}
_VIEW_GUIDED_NEEDS = {
    "product": frozenset({IMAGE, BEV, MASK}),
    "additive": frozenset({IMAGE, BEV}),
    "image_only": frozenset({IMAGE}),
    "bev_only": frozenset({BEV}),
}
_NEEDS = {
    "cwd_image": frozenset({IMAGE}),
    "cwd_bev": frozenset({BEV}),
    "fitnet_image": frozenset({IMAGE}),
    "fitnet_bev": frozenset({BEV}),
    "output_class": frozenset({LOGITS}),
    "output_box": frozenset({LOGITS, CODE}),
}


@dataclass(frozen=True)
class Objective:
    """One loss beside the detection loss."""

    name: Name
    needs: frozenset[str]
    """Fields of ``Features`` that must be there."""
    compare: Compare
    """Of student's and teacher's features, the loss and its terms for the curve."""
    weight: Weight
    """Fixed, or set by the first steps; it is part of the resume state."""


def objectives(profile: Profile) -> list[Objective]:
    """The objectives of a profile, in its order."""
    section = profile.distillation
    compared = _comparisons(profile)
    return [
        Objective(name, needs_of(name, section=section), compared[name], _weight(name, section=section))
        for name in section.objectives
    ]


def needs_of(name: Name, *, section: DistillationProfile) -> frozenset[str]:
    """Fields of ``Features`` that an objective needs; the view-guided one's follow from how it combines its sides."""
    return _VIEW_GUIDED_NEEDS[section.combine] if name == "vgd" else _NEEDS[name]


def taught(section: DistillationProfile) -> frozenset[str]:
    """Fields of ``Features`` that a profile's objectives need of the teacher."""
    return frozenset().union(*(needs_of(name, section=section) for name in section.objectives)) - _OF_GEOMETRY


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
            possible = [one for one in get_args(Name) if needs_of(one, section=section) <= set(given)]
            other = (
                f"distillation.objectives can be {', '.join(possible)}" if possible else "no other objective can run"
            )
            raise ValueError(f"objective {name} needs {' and '.join(lacking)}, which {whose} does not give; {other}")


def with_taps(profile: Profile) -> None:
    """Refuse a detector that has no taps on what its distillation compares, before anything is trained for it.

    Raises:
        ValueError: It has none at all, or an objective needs others.
    """
    model = profile.model
    if model.detector == BEVFORMER:
        return
    if not model.tapped:
        raise ValueError(
            f"distillation compares features, and {model.name} is known by its mmdet3d config alone, which names no "
            "taps on them: state mmdet3d.taps, or run qat-progressive, which needs none"
        )
    given = [{"image": IMAGE, "bev": BEV}[name] for name in model.tapped]
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


def _comparisons(profile: Profile) -> dict[Name, Compare]:
    section = profile.distillation
    of_class, of_box = section.output_class, section.output_box
    code_weights_D = torch.tensor(profile.model.head.code_weights)
    plain: dict[Name, _Plain] = {
        "cwd_image": lambda student, teacher: image_channel_wise_loss(
            _there(student.image), teacher_image=_there(teacher.image), temperature=section.cwd_image.temperature
        ),
        "cwd_bev": lambda student, teacher: bev_channel_wise_loss(
            _there(student.bev_BQC), teacher_BQC=_there(teacher.bev_BQC), temperature=section.cwd_bev.temperature
        ),
        "fitnet_image": lambda student, teacher: image_hint_loss(
            _there(student.image), teacher_image=_there(teacher.image)
        ),
        "fitnet_bev": lambda student, teacher: hint_loss(_there(student.bev_BQC), teacher=_there(teacher.bev_BQC)),
        "output_class": lambda student, teacher: class_output_loss(
            _there(student.logits_LBKC),
            teacher_LBKC=_there(teacher.logits_LBKC),
            temperature=of_class.temperature,
            layers=of_class.layers,
            weighting=of_class.weighting,
        ),
        "output_box": lambda student, teacher: box_output_loss(
            _there(student.code_LBKD),
            teacher_LBKD=_there(teacher.code_LBKD),
            teacher_LBKC=_there(teacher.logits_LBKC),
            code_weights_D=code_weights_D,
            layers=of_box.layers,
            weighting=of_box.weighting,
        ),
    }
    compared: dict[Name, Compare] = {name: _with_term(name, loss) for name, loss in plain.items()}
    compared["vgd"] = _view_guided(section)
    return compared


def _view_guided(section: DistillationProfile) -> Compare:
    needs = needs_of("vgd", section=section)

    def compare(learned: Features, teacher: Features) -> tuple[Tensor, Terms]:
        return view_guided_loss(
            learned.image if IMAGE in needs else None,
            teacher_image=teacher.image if IMAGE in needs else None,
            student_bev=learned.bev_BQC if BEV in needs else None,
            teacher_bev=teacher.bev_BQC if BEV in needs else None,
            bev_mask_BNQD=learned.bev_mask_BNQD if MASK in needs else None,
            temperature=section.temperature,
            image_axis=section.image_axis,
            bev_axis=section.bev_axis,
            pointwise=section.pointwise,
            normaliser=section.normaliser,
            batch=section.batch,
            mask=section.mask,
            combine=section.combine,
            detach=section.detach,
        )

    return compare


def _with_term(name: str, loss: _Plain) -> Compare:
    def compare(learned: Features, teacher: Features) -> tuple[Tensor, Terms]:
        value = loss(learned, teacher)
        return value, {name: value.detach()}

    return compare


def _weight(name: Name, *, section: DistillationProfile) -> Weight:
    own: Weighed = section if name == "vgd" else getattr(section, name)
    if own.weight == "auto":
        return AutoWeight(share=own.auto_share, steps=section.auto_steps)
    return FixedWeight(own.weight)


def _there(value: T | None) -> T:
    assert value is not None  # refuse_missing has seen to it
    return value
