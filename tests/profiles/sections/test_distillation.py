"""The distillation section: what came later leaves the digest of the view-guided default alone."""

from __future__ import annotations

from dataclasses import fields
from typing import get_args, get_type_hints

import pytest

import profiles
from profiles.sections.distillation import DistillationProfile
from qdbev.distillation.outputs import Layers, Weighting
from qdbev.distillation.vgd import Reading

BEFORE = {
    *("temperature", "image_axis", "bev_axis", "pointwise", "normaliser", "batch", "mask", "combine", "detach"),
    *("weight", "auto_share", "auto_steps", "schedule"),
}


def test_the_view_guided_loss_alone_is_what_it_was() -> None:
    assert set(DistillationProfile().content()) == BEFORE
    stated = profiles.load("w4a6", overrides=["distillation.objectives=[vgd]", "distillation.cache_teacher=never"])
    assert stated.distillation.content() == profiles.load("w4a6").distillation.content()


@pytest.mark.parametrize(
    "word",
    [
        "objectives=[vgd, cwd_bev]",
        *("cwd_image.temperature=4", "cwd_bev.auto_share=0.1", "fitnet_image.weight=2", "fitnet_bev.weight=2"),
        *("output_class.layers=all", "output_box.weighting=uniform", "cache_teacher=auto", "cache_limit_gb=1"),
    ],
)
def test_what_is_used_is_stated(word: str) -> None:
    content = profiles.load("w4a6", overrides=[f"distillation.{word}"]).distillation.content()
    assert set(content) - BEFORE == {word.partition("=")[0].partition(".")[0]}
    assert DistillationProfile.model_validate(content).content() == content


def choices(hint: object) -> set[object]:
    """The values of a Literal, or of a Literal or None."""
    args = get_args(hint)
    return {value for arg in args for value in (choices(arg) or {None if arg is type(None) else arg})}


def test_every_switch_of_the_library_is_a_field_with_its_values_and_its_default() -> None:
    hints, section = get_type_hints(Reading), DistillationProfile()
    for field in fields(Reading):
        assert choices(DistillationProfile.model_fields[field.name].annotation) == choices(hints[field.name])
        assert getattr(section, field.name) == field.default


def test_what_outputs_are_compared_by_is_what_the_library_knows() -> None:
    for section in (DistillationProfile().output_class, DistillationProfile().output_box):
        for name, known in (("layers", Layers), ("weighting", Weighting)):
            assert get_args(type(section).model_fields[name].annotation) == get_args(known)
