"""Refinement of the boxes from layer to layer."""

from __future__ import annotations

import math

import pytest
import torch

from qdbev.detectors.bevformer.layers.decoder import inverse_sigmoid, moved


def test_inverse_sigmoid_undoes_sigmoid():
    logit = torch.linspace(-8, 8, 9)
    torch.testing.assert_close(inverse_sigmoid(logit.sigmoid()), logit, atol=1e-3, rtol=0)
    assert inverse_sigmoid(torch.tensor([2.0])).item() == pytest.approx(math.log(1 / 1e-5), rel=1e-3)


def test_only_the_centre_moves_from_the_reference():
    raw = torch.arange(10.0).view(1, 1, 10) / 10
    code = moved(raw, reference_BK3=torch.tensor([[[0.5, 0.2, 0.9]]]))[0, 0]

    def sigmoid(x):
        return 1 / (1 + math.exp(-x))

    assert code[0].item() == pytest.approx(0.5)
    assert code[1].item() == pytest.approx(sigmoid(0.1 + math.log(0.25)), abs=1e-5)
    assert code[4].item() == pytest.approx(sigmoid(0.4 + math.log(9)), abs=1e-5)
    kept = [2, 3, 5, 6, 7, 8, 9]
    assert torch.equal(code[kept], raw[0, 0, kept])


def test_a_branch_of_the_wrong_size_is_refused():
    with pytest.raises(ValueError, match="10 numbers, the regression branch gave 8"):
        moved(torch.zeros(1, 1, 8), reference_BK3=torch.full((1, 1, 3), 0.5))


def test_each_layer_starts_from_the_box_of_the_one_before(make_model):
    head = make_model(query_init="random").pts_bbox_head
    for branch in head.reg_branches:  # no layer moves anything
        torch.nn.init.zeros_(branch[-1].weight)
        torch.nn.init.zeros_(branch[-1].bias)
    torch.nn.init.constant_(head.reg_branches[0][-1].bias[:1], 0.7)  # but the first moves x
    code = head.decode(torch.randn(2, 80, 16)).code_LBK10
    position = head.query_embedding.weight[:, :16]
    x = head.transformer.reference_points(position)[:, 0]
    expected = (x + 0.7).sigmoid() * 102.4 - 51.2
    torch.testing.assert_close(code[0, 0, :, 0], expected, atol=1e-3, rtol=0)
    torch.testing.assert_close(code[1, 1, :, 0], expected, atol=1e-3, rtol=0)


def test_gradients_stop_between_layers(make_model):
    head = make_model().pts_bbox_head
    bev = torch.randn(1, 80, 16)
    head.decode(bev).code_LBK10[1, ..., 0].sum().backward()
    # the box of layer 1 reaches branch 0 only through the reference, which is detached
    assert head.reg_branches[0][-1].weight.grad.abs().sum() == 0
    assert head.reg_branches[1][-1].weight.grad.abs().sum() > 0
