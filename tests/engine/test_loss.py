"""The loss as a module: what a loss must be, mmengine's rule for dicts of losses, and batch norm held still."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from qdbev.engine.loss import LossModule, frozen_batchnorm, sum_losses


def test_losses_are_summed_by_name():
    total, terms = sum_losses(
        {
            "loss_cls": torch.tensor([1.0, 2.0, 6.0]),
            "d0.loss_bbox": [torch.tensor(0.5), torch.tensor([1.0, 2.0])],
            "matched": torch.tensor(7.0),
        }
    )
    assert float(total) == 5.0
    assert {name: float(term) for name, term in terms.items()} == {"loss_cls": 3.0, "d0.loss_bbox": 2.0, "matched": 7.0}


def test_nothing_called_loss_is_refused():
    with pytest.raises(ValueError, match="no entry called loss among accuracy"):
        sum_losses({"accuracy": torch.tensor(1.0)})


def test_terms_are_numbers_without_gradient():
    model = nn.Linear(1, 1)
    loss_module = LossModule(model, loss=lambda batch, step: (model(batch).sum(), {"a": model(batch), "b": step + 0.5}))
    loss, terms = loss_module(torch.ones(1, 1), 2)
    assert loss.requires_grad and loss.shape == ()
    assert terms["b"].item() == 2.5 and not terms["a"].requires_grad and terms["a"].dtype == torch.float64


@pytest.mark.parametrize("value", [torch.ones(2, requires_grad=True), torch.ones(()), 3.0])
def test_refuses_what_is_no_loss(value):
    with pytest.raises(ValueError, match=r"at step 7 .* expected one number with a gradient"):
        LossModule(nn.Linear(1, 1), loss=lambda batch, step: (value, {}))(None, 7)


def test_loss_that_is_a_module_adds_no_parameters():
    assert [name for name, _ in LossModule(nn.Linear(1, 1), loss=nn.Linear(2, 2)).named_parameters()] == [
        "model.weight",
        "model.bias",
    ]


def test_batchnorm_stays_frozen_when_the_model_switches_modes():
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(0.5))
    with frozen_batchnorm(model, freeze=True):
        model.eval()
        model.train()  # what a temporal detector does around its history frames
        model(torch.randn(8, 2) + 5.0)
        assert model[0].running_mean.tolist() == [0.0, 0.0] and model[1].training
    model.train()
    model(torch.randn(8, 2) + 5.0)
    assert model[0].running_mean.min() > 0.3


def test_batchnorm_learns_where_it_is_not_frozen():
    model = nn.BatchNorm1d(2)
    with frozen_batchnorm(model, freeze=False):
        model(torch.randn(8, 2) + 5.0)
    assert model.running_mean.min() > 0.3
