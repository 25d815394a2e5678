"""The distillation section: what came later leaves the digest of the view-guided default alone."""

from __future__ import annotations

import pytest

import profiles
from profiles.sections.distillation import DistillationProfile

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
