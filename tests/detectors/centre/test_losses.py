"""Losses of a centre head by hand, and the clamp of the official code."""

from __future__ import annotations

import math

import pytest
import torch

from qdbev.detectors.boxes.centre_heatmap import centre_focal
from qdbev.detectors.centre import TaskMaps, TaskTargets, task_losses


def maps_and_targets() -> tuple[TaskMaps, TaskTargets]:
    maps = TaskMaps(torch.zeros(1, 1, 2, 2, requires_grad=True), torch.zeros(1, 10, 2, 2, requires_grad=True))
    heat = torch.tensor([[[[1.0, 0.5], [0.0, 0.0]]]])
    code = torch.tensor([[0.5, 0.5, 1.0, 1.0, 2.0, 3.0, 1.0, 0.0, 4.0, float("nan")]])
    return maps, TaskTargets(heat, torch.tensor([0]), torch.tensor([0]), code)


def test_by_hand() -> None:
    maps, targets = maps_and_targets()
    loss = task_losses(maps, targets, code_weights=[1.0] * 8 + [0.2, 0.2], divisor=torch.tensor(2.0))
    # at logit 0 every cell gives 0.25 log 2; the penalty of the bump of height 0.5 is 0.5 ** 4
    assert float(loss.heat.detach()) == pytest.approx(0.25 * math.log(2) * (1 + 0.5**4 + 2), rel=1e-6)
    found = {name: float(value.detach()) for name, value in loss.boxes.items()}
    assert found == pytest.approx({"xy": 0.125, "z": 0.125, "whl": 0.75, "yaw": 0.125, "vel": 0.1})  # NaN gives none
    sum(loss.boxes.values()).backward()  # type: ignore[union-attr]
    gradient = maps.code_B10HW.grad
    assert gradient is not None and gradient.isfinite().all() and gradient[0, 9, 0, 0] == 0
    assert gradient[0, 8, 0, 0] == pytest.approx(-0.025) and gradient[0, :, 1].abs().sum() == 0


def test_a_probability_beyond_the_clamp_gets_no_gradient_and_maps_stay() -> None:
    """A focal loss without the clamp pulls at such a cell with a gradient near 1; the official code does not."""
    logits = torch.tensor([[[-12.0, 0.0]]], requires_grad=True)
    heat = torch.tensor([[[1.0, 0.0]]])
    clamped = centre_focal(logits, targets_GHW=heat, objects=1, lowest=1e-4)
    gradient = torch.autograd.grad(clamped, logits)[0]
    assert gradient[0, 0, 0] == 0 and gradient[0, 0, 1] != 0
    assert torch.autograd.grad(centre_focal(logits, targets_GHW=heat, objects=1), logits)[0][0, 0, 0] < -0.9
    assert logits.tolist() == [[[-12.0, 0.0]]]
    hit = -((1 - 1e-4) ** 2) * math.log(1e-4)
    assert float(clamped.detach()) == pytest.approx(hit + 0.25 * math.log(2), rel=1e-5)


def test_within_the_clamp_both_are_equal() -> None:
    logits = torch.linspace(-8, 8, 24).view(1, 4, 6)
    heat = torch.rand(1, 4, 6, generator=torch.Generator().manual_seed(0))
    heat[0, 0, 0] = 1
    plain = centre_focal(logits, targets_GHW=heat, objects=2)
    torch.testing.assert_close(centre_focal(logits, targets_GHW=heat, objects=2, lowest=1e-4), plain)
