"""Spatial cross-attention on images where the answer is known."""

from __future__ import annotations

import pytest
import torch

from qdbev.detectors.bevformer.frames.geometry import visibility
from qdbev.detectors.bevformer.layers.spatial_cross_attention import PillarDeformableAttention, SpatialCrossAttention

CHANNELS, SHAPES = 8, [(2, 3), (1, 2)]


@pytest.fixture
def attention():
    torch.manual_seed(0)
    made = SpatialCrossAttention(channels=CHANNELS, heads=2, levels=2, points=4, heights=2, dropout=0.0)
    torch.nn.init.zeros_(made.deformable_attention.sampling_offsets.bias)
    return made


def seen_by(mask_BNQ, uv=(0.5, 0.5)):
    mask = mask_BNQ[..., None].expand(-1, -1, -1, 2)
    return visibility(torch.tensor(uv).expand(*mask.shape, 2), mask_BNQD=mask)


def test_a_cell_gets_the_mean_of_the_cameras_that_see_it(attention):
    """One colour per camera: two cameras see cell 0, one sees cell 1, none sees cell 2."""
    mask = torch.tensor([[[True, False, False], [True, True, False]]])
    colours = torch.randn(2, CHANNELS)
    tokens = colours[None, :, None].expand(1, 2, 8, -1)
    query = torch.randn(1, 3, CHANNELS)
    # the middle of an image is inside both levels, so the constant colour comes back whole
    found = attention(query, tokens_BNSC=tokens, level_shapes=SHAPES, seen=seen_by(mask))
    value = attention.deformable_attention.value_proj(colours)
    expected = attention.output_proj(torch.stack([value.mean(0), value[1], torch.zeros(CHANNELS)]))
    torch.testing.assert_close(found[0] - query[0], expected, atol=1e-5, rtol=0)


def test_a_point_uses_the_height_of_its_index_modulo_heights(attention):
    """Height 0 looks at the left pixel of a level, height 1 at the right one; points 0 and 2 have all the weight."""
    inner: PillarDeformableAttention = attention.deformable_attention
    with torch.no_grad():
        logits = torch.full((2, 2, 4), -100.0)
        logits[:, 1, 0] = logits[:, 1, 2] = 0.0  # level 1, points 0 and 2
        inner.attention_weights.bias.copy_(logits.flatten())
    tokens = torch.randn(1, 1, 8, CHANNELS)
    mask = torch.ones(1, 1, 1, 2, dtype=torch.bool)
    uv = torch.tensor([[0.25, 0.5], [0.75, 0.5]]).view(1, 1, 1, 2, 2)
    found = inner(
        torch.zeros(1, 1, CHANNELS), tokens_BNSC=tokens, level_shapes=SHAPES, seen=visibility(uv, mask_BNQD=mask)
    )
    torch.testing.assert_close(found[0, 0], inner.value_proj(tokens[0, 0, 6]), atol=1e-5, rtol=0)


def test_every_sample_has_its_own_list_of_cells(attention):
    torch.nn.init.normal_(attention.deformable_attention.sampling_offsets.weight)
    mask = torch.tensor([[[True, True, True]], [[False, True, False]]])
    query, tokens = torch.randn(2, 3, CHANNELS), torch.randn(2, 1, 8, CHANNELS)
    both = attention(query, tokens_BNSC=tokens, level_shapes=SHAPES, seen=seen_by(mask))
    for sample in (0, 1):
        here = slice(sample, sample + 1)
        alone = attention(query[here], tokens_BNSC=tokens[here], level_shapes=SHAPES, seen=seen_by(mask[here]))
        torch.testing.assert_close(both[here], alone, atol=1e-6, rtol=0)


def test_points_must_fill_the_heights():
    with pytest.raises(ValueError, match="points is 6, expected a multiple of the 4 heights"):
        PillarDeformableAttention(channels=8, heads=2, levels=1, points=6, heights=4)
