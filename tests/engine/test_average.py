"""Moving average of weights: by hand, against torch's own, and weights lent for a while."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from qdbev.engine.average import AverageWeights, decay_at, weights_of


def _set(model, value):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(value)


def test_by_hand():
    model = nn.Linear(1, 1)
    _set(model, 0.0)
    average = AverageWeights(model, decay=0.15)
    for value, expected in [(1.0, 0.9), (1.0, 0.985), (0.0, 0.14775)]:  # decays 1/10, then min(0.15, 2/11) = 0.15
        _set(model, value)
        average.update()
        assert average.tensors()["weight"].item() == pytest.approx(expected)


def test_agrees_with_torch_after_the_warm_up():
    model = nn.Linear(3, 2)
    average = AverageWeights(model, decay=0.9)
    average.updates = 1000
    expected = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    expected.update_parameters(model)
    for step in range(5):
        _set(model, float(step))
        average.update()
        expected.update_parameters(model)
    assert decay_at(1000, decay=0.9) == 0.9
    torch.testing.assert_close(average.tensors()["weight"], expected.module.weight.detach())


def test_model_state_takes_buffers_as_they_are_and_owns_its_memory():
    model = nn.BatchNorm1d(2)
    average = AverageWeights(model, decay=0.5)
    model(torch.randn(8, 2))
    _set(model, 3.0)
    state = average.model_state()
    _set(model, 4.0)
    average.update()
    model.running_mean.zero_()
    assert state["weight"].tolist() == [1.0, 1.0] and state["bias"].tolist() == [0.0, 0.0]
    assert state["num_batches_tracked"].item() == 1 and state["running_mean"].abs().sum() > 0
    assert set(state) == set(model.state_dict())


def test_weights_are_lent_and_given_back_also_after_an_error():
    model = nn.Linear(1, 1)
    _set(model, 1.0)
    other = {name: torch.full_like(value, 2.0) for name, value in model.state_dict().items()}
    with pytest.raises(RuntimeError, match="stop"), weights_of(model, state=other):
        assert model.weight.item() == 2.0
        raise RuntimeError("stop")
    assert model.weight.item() == 1.0 and model.bias.item() == 1.0


def test_refuses():
    with pytest.raises(ValueError, match="ema_decay=1"):
        AverageWeights(nn.Linear(1, 1), decay=1.0)
    with pytest.raises(ValueError, match="averages of 1 parameters"):
        AverageWeights(nn.Linear(1, 1), decay=0.9).load_tensors({"weight": torch.zeros(1, 1)})
