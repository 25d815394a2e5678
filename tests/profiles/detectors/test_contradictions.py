"""Fields of BEVFormer that contradict each other are refused before anything is built."""

from __future__ import annotations

import pytest

import profiles
from profiles import ProfileError


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["backbone.depth=50"], "neck.in_channels is [64, 128], but the backbone gives [256, 512] (backbone.depth 50"),
        (["neck.in_channels=[3, 5]"], "neck.in_channels is [3, 5], but the backbone gives [64, 128]"),
        (["backbone.base_channels=64"], "but the backbone gives [128, 256]"),
        (["neck.in_channels=[64]"], "neck.in_channels has 1 entries, but backbone.out_indices (1, 2)"),
        (["neck.outputs=1"], "neck.outputs 1 is less than the 2 entries of neck.in_channels"),
        (["backbone.out_indices=[2, 1]"], "backbone.out_indices (2, 1) must rise, each once"),
        (["backbone.out_indices=[1, 1]"], "must rise, each once"),
        (["backbone.out_indices=[-1, 2]"], "model.backbone.out_indices is -1; it must be greater than or equal to 0"),
        (["backbone.out_indices=[]"], "model.backbone.out_indices is []; it must have at least 1 item"),
        (["backbone.dcn_stages=[false, false, true]"], "backbone.dcn_stages must be false where backbone.depth is 18"),
        (["backbone.frozen_stages=4"], "backbone.frozen_stages 4 of 3 backbone.stages"),
        (["channels=63", "heads=3"], "channels 63 is odd"),
        (["bev.range_m=[1, 1, 1, 0, 2, 2]"], "bev.range_m [1.0, 1.0, 1.0, 0.0, 2.0, 2.0] must be three minima"),
        (["bev.rows=1000", "bev.columns=1000", "channels=512"], "1000 x 1000 cells of 512 channels are more than"),
        (["image.scale=0.001"], "model.image.scale is 0.001; it must be greater than or equal to 0.02"),
        (["image.std=[1, 0, 1]"], "model.image.std is 0; it must be greater than 0"),
    ],
)
def test_a_contradiction_is_one_sentence(words: list[str], sentence: str) -> None:
    with pytest.raises(ProfileError) as caught:
        profiles.load("w4a6", overrides=[f"model.{word}" for word in words])
    assert sentence in str(caught.value)


@pytest.mark.parametrize("model", profiles.builtin_models())
def test_the_backbone_says_its_channels(model: str) -> None:
    section = profiles.load("float", model=model).model
    if hasattr(section, "neck"):
        assert section.backbone.channels == section.neck.in_channels
