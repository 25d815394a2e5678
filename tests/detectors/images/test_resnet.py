"""The patch stem."""

from __future__ import annotations

import torch


def test_a_patch_stem_keeps_strides_and_names_and_saves_the_pooling(make_model):
    standard, patch = make_model().img_backbone, make_model(backbone_stem="patch").img_backbone
    assert list(standard.state_dict()) == list(patch.state_dict())
    image = torch.randn(1, 3, 64, 96)
    assert [level.shape for level in standard(image)] == [level.shape for level in patch(image)]


def test_patches_do_not_overlap(make_model):
    backbone = make_model(backbone_stem="patch").img_backbone
    image = torch.randn(1, 3, 8, 8)
    before = backbone.conv1(image)
    image[..., :4, :4] += 1
    changed = ((backbone.conv1(image) - before).abs() > 1e-4).any(1)[0]
    assert changed.tolist() == [[True, False], [False, False]]
