"""Smoothing: exact in float, where it may be done, and that channels come nearer each other."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from qdbev.quantization import Pair, find_connections, smooth


class Network(nn.Module):
    """LayerNorms that may be smoothed (``first``, ``branch``) and others that may not; (5, 8) -> (5, 4)."""

    def __init__(self):
        super().__init__()
        self.first = nn.LayerNorm(8)
        self.query, self.key = nn.Linear(8, 8), nn.Linear(8, 8, bias=False)
        self.residual = nn.LayerNorm(8)
        self.hidden = nn.Linear(8, 8)
        self.branch = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.ReLU(inplace=True), nn.Linear(8, 8))
        self.attended = nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.bare = nn.LayerNorm(8, elementwise_affine=False)
        self.last = nn.Linear(8, 4)

    def forward(self, x):
        y = self.first(x)
        x = self.query(input=y) * self.key(y)
        y = self.residual(x)
        x = self.branch(y + self.hidden(y))
        y = self.attended(x)
        x = x + self.attention(y[None], y[None], y[None], need_weights=False)[0][0]
        return self.last(self.bare(x))


def _network():
    torch.manual_seed(0)
    model = Network().eval()
    with torch.no_grad():
        for norm in (model.first, model.branch[1]):
            norm.weight.copy_(torch.logspace(-1, 1, 8))  # channels a hundredfold apart
            norm.bias.normal_()
    return model, torch.randn(64, 8)


def _smoothed(model, x, alpha):
    return smooth(model, example_call=lambda: model(x[:2]), run=lambda: model(x), alpha=alpha)


@settings(deadline=None, max_examples=20)
@given(alpha=st.floats(0, 1), seed=st.integers(0, 1000))
def test_changes_nothing_in_float(alpha, seed):
    model, x = _network()
    other = torch.randn(50, 8, generator=torch.Generator().manual_seed(seed))
    expected = model(other)
    _smoothed(model, x, alpha)
    torch.testing.assert_close(model(other), expected, rtol=1e-5, atol=1e-5)


def test_says_what_it_smooths_and_why_not_the_others():
    model, x = _network()
    done = _smoothed(model, x, 0.5)
    assert set(done.scales) == {Pair("first", ("query", "key")), Pair("branch.1", ("branch.3",))}
    assert set(done.refused) == {"residual", "attended"}
    assert done.refused["residual"].startswith("add")


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_scales_are_those_of_the_paper(alpha):
    model, x = _network()
    inputs = model.first(x).abs().amax(0)
    weights = torch.maximum(model.query.weight.abs().amax(0), model.key.weight.abs().amax(0))
    done = _smoothed(model, x, alpha)
    expected = inputs**alpha / weights ** (1 - alpha)
    torch.testing.assert_close(done.scales[Pair("first", ("query", "key"))], expected)
    torch.testing.assert_close(model.first(x).abs().amax(0), inputs / expected)


def test_a_channel_that_is_always_zero_keeps_its_scale():
    model, x = _network()
    with torch.no_grad():
        model.first.weight[3] = model.first.bias[3] = 0
        model.branch[3].weight[:, 5] = 0
    expected = model(x)
    done = _smoothed(model, x, 0.5)
    assert done.scales[Pair("first", ("query", "key"))][3] == 1 and done.scales[Pair("branch.1", ("branch.3",))][5] == 1
    torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-5)


def test_data_free_quantization_connects_no_norm():
    model, x = _network()
    found = find_connections(model, lambda: model(x))
    norms = {path for path, module in model.named_modules() if isinstance(module, nn.LayerNorm)}
    assert not norms & ({pair.first for pair in found.pairs} | set(found.refused))
    with_norms = find_connections(model, lambda: model(x), norms=True)
    assert {path: reason for path, reason in with_norms.refused.items() if path not in norms} == found.refused
    assert [pair for pair in with_norms.pairs if pair.first not in norms] == list(found.pairs)
