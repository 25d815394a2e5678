"""The depth loss by hand: which pixels count, and what they count by."""

from __future__ import annotations

import math

import pytest
import torch

from qdbev.detectors.bevdepth.depth_loss import depth_loss

DEPTH_EDP = torch.tensor([[[0.9, 0.2, 0.5], [0.1, 0.8, 0.5]]])  # one image, two depths, three pixels


def test_a_pixel_in_the_first_bin_counts_and_one_without_a_point_does_not() -> None:
    first, second = -2 * math.log(0.9), -2 * math.log(0.8)
    assert depth_loss(DEPTH_EDP, bins_EP=torch.tensor([[0, 1, -1]])).item() == pytest.approx((first + second) / 2)
    assert depth_loss(DEPTH_EDP, bins_EP=torch.tensor([[0, -1, -1]])).item() == pytest.approx(first)
    assert depth_loss(DEPTH_EDP, bins_EP=torch.tensor([[-1, -1, -1]])).item() == 0
