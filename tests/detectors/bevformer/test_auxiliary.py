"""Targets of the dense head on the BEV."""

from __future__ import annotations

import math

import torch

from qdbev.detectors.auxiliary import gather_objects


def heads(make_model):
    return make_model(auxiliary=True).auxiliary


def test_perfect_dense_outputs_have_no_regression_loss(make_model):
    module = heads(make_model)
    box = torch.tensor([[0.0, 0.0, -1.0, 4.0, 2.0, 1.5, 0.5, 2.5, -5.0]])
    objects = gather_objects([box], [torch.tensor([0])])
    out = torch.zeros(1, 14, 8, 10)
    row, column = 4, 5  # 0 m is the lower border of the cell in the middle
    out[0, 10:, row, column] = torch.tensor([math.sin(0.5), math.cos(0.5), 0.5, -1.0])
    losses = module._bev_losses(out, objects)
    assert float(losses["bev_heading"]) < 1e-10
    assert float(losses["bev_velocity"]) < 1e-10
    assert float(module._bev_losses(torch.zeros_like(out), objects)["bev_velocity"]) == 0.25 + 1.0


def test_boxes_outside_the_grid_are_left_out(make_model):
    module = heads(make_model)
    far = gather_objects([torch.tensor([[60.0, 0, 0, 1, 1, 1, 0, 0, 0]])], [torch.tensor([0])])
    assert float(module._bev_losses(torch.zeros(1, 14, 8, 10), far)["bev_heading"]) == 0
