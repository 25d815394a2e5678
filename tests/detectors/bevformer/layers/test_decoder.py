"""Refinement of the boxes from layer to layer."""

from __future__ import annotations

import torch


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
