"""First places of object queries, and how a box code moves them."""

from __future__ import annotations

import math

import pytest
import torch

from qdbev.detectors.queries.references import inverse_sigmoid, moved


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
