"""First values of the parameters."""

from __future__ import annotations

import math

import pytest
import torch

from qdbev.detectors.queries.references import grid_positions


def test_sampling_starts_as_a_star(make_model, mite):
    from qdbev.detectors.bevformer import build_bevformer

    model = build_bevformer(**(mite | {"heads": 8}))
    for name, module in model.named_modules():
        if not hasattr(module, "sampling_offsets"):
            continue
        assert module.sampling_offsets.weight.abs().max() == 0, name
        assert module.attention_weights.weight.abs().max() == module.attention_weights.bias.abs().max() == 0
        offsets = module.sampling_offsets.bias.view(8, -1, module.points, 2)
        torch.testing.assert_close(offsets[1, 0, 0], torch.tensor([1.0, 1.0]))
        torch.testing.assert_close(offsets[2, -1, 2], torch.tensor([0.0, 3.0]), atol=1e-6, rtol=0)


def test_classes_start_at_one_percent(make_model):
    for branch in make_model().pts_bbox_head.cls_branches:
        torch.testing.assert_close(branch[-1].bias.sigmoid(), torch.full((10,), 0.01))


@pytest.mark.parametrize("count", [1, 5, 12, 150])
def test_grid_positions_are_distinct_and_spread(count):
    positions = grid_positions(count)
    assert positions.shape == (count, 3)
    assert len({tuple(place) for place in positions.tolist()}) == count
    assert (positions > 0).all() and (positions < 1).all()
    torch.testing.assert_close(positions[:, 1].mean(), torch.tensor(0.5), atol=0.1, rtol=0)


def test_grid_queries_start_at_the_grid(make_model):
    head = make_model(query_init="grid").pts_bbox_head
    position = head.query_embedding.weight[:, : head.query_embedding.weight.shape[1] // 2]
    reference = head.transformer.reference_points(position).sigmoid()
    torch.testing.assert_close(reference, grid_positions(12), atol=1e-4, rtol=0)


def test_random_queries_keep_the_tables_own_spread(make_model):
    weight = make_model(query_init="random", queries=400).pts_bbox_head.query_embedding.weight
    assert math.isclose(float(weight.detach().std()), 1, abs_tol=0.05)


def test_an_unknown_start_is_refused(make_model):
    with pytest.raises(ValueError, match=r"'ring', expected one of \['random', 'grid'\]"):
        make_model(query_init="ring")
