"""Depths of pixels: their probabilities keep their precision where a training computes in less."""

from __future__ import annotations

import torch

from qdbev.detectors.bevdepth.depth_loss import depth_loss
from qdbev.detectors.lift import depth_probabilities


def test_the_loss_of_a_sure_and_wrong_depth_pulls_as_hard_in_bf16() -> None:
    """A probability of 0.999 is 1 in bf16, and the cross-entropy of 1 has a slope of 1e12."""
    logits_EDHW = torch.tensor([7.0, 0.0, 0.0]).view(1, 3, 1, 1)
    pulls = []
    for dtype in (torch.float32, torch.bfloat16):
        leaf = logits_EDHW.to(dtype).detach().clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = depth_loss(depth_probabilities(leaf), bins_EP=torch.tensor([[1]]))
        loss.backward()
        assert leaf.grad is not None
        pulls.append(leaf.grad.float())
    torch.testing.assert_close(pulls[1], pulls[0], rtol=1e-2, atol=1e-2)


def test_probabilities_of_a_pixel_sum_to_one_and_stay_as_fine_as_they_came() -> None:
    for dtype, expected in ((torch.bfloat16, torch.float32), (torch.float64, torch.float64)):
        depth_EDP = depth_probabilities(torch.randn(2, 5, 3, 4, generator=torch.Generator().manual_seed(0)).to(dtype))
        assert depth_EDP.shape == (2, 5, 12)
        assert depth_EDP.dtype == expected
        torch.testing.assert_close(depth_EDP.sum(1), torch.ones(2, 12, dtype=expected))
