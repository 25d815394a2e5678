"""Weights of a distillation loss: the automatic one by hand, its law, its state, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qdbev.distillation.weight import AutoWeight, FixedWeight, Weights


def _weigh(weight, detection, distillation):
    return float(weight(torch.tensor(distillation, dtype=torch.float64), detection=torch.tensor(detection)))


def test_auto_weight_by_hand():
    weight = AutoWeight(share=0.1, steps=2)
    assert weight.value == 0.0 and not weight.is_set
    assert _weigh(weight, 4.0, 0.5) == pytest.approx(0.4)  # weight 0.1 * 4 / 0.5 = 0.8
    assert _weigh(weight, 8.0, 0.1) == pytest.approx(0.2)  # weight 0.1 * 12 / 0.6 = 2
    assert weight.is_set
    assert _weigh(weight, 100.0, 0.3) == pytest.approx(0.6)
    assert weight.value == pytest.approx(2.0)


@settings(max_examples=30, deadline=None)
@given(
    share=st.floats(0.01, 2.0),
    pairs=st.lists(st.tuples(st.floats(0.1, 50.0), st.floats(1e-9, 1e-3)), min_size=1, max_size=8),
)
def test_weighted_mean_is_the_share_of_the_detection_loss(share, pairs):
    weight = AutoWeight(share=share, steps=len(pairs))
    for detection, distillation in pairs:
        _weigh(weight, detection, distillation)
    mean = sum(distillation for _, distillation in pairs) / len(pairs)
    assert weight.value * mean == pytest.approx(share * sum(detection for detection, _ in pairs) / len(pairs), rel=1e-5)


def test_calls_that_say_nothing_are_left_out():
    weight = AutoWeight(share=1.0, steps=2)
    for detection, distillation in [(float("nan"), 1.0), (1.0, float("inf")), (1.0, 0.0)]:
        _weigh(weight, detection, distillation)
        assert weight.value == 0.0
    _weigh(weight, 3.0, -1.0)  # plain KL over cells may sum to less than zero
    assert weight.value == 3.0


def test_state_goes_on_where_it_was():
    pairs = [(4.0, 0.5), (8.0, 0.1), (5.0, 0.7), (1.0, 0.2)]
    whole, first, second = (AutoWeight(share=0.3, steps=3) for _ in range(3))
    losses = [_weigh(whole, *pair) for pair in pairs]
    resumed = [_weigh(first, *pair) for pair in pairs[:2]]
    second.load_state_tensors(first.state_tensors())
    resumed += [_weigh(second, *pair) for pair in pairs[2:]]
    assert resumed == losses and second.value == whole.value and second.is_set


def test_weight_carries_no_gradient_to_the_detection_loss():
    detection = torch.tensor(2.0, requires_grad=True)
    distillation = torch.tensor(0.5, requires_grad=True)
    AutoWeight(share=1.0, steps=1)(distillation, detection=detection).backward()
    assert detection.grad is None and float(distillation.grad) == 4.0


def test_several_weights_are_set_apart_and_go_on_where_they_were():
    def fresh():
        return {
            "vgd": AutoWeight(share=0.1, steps=3),
            "cwd_bev": AutoWeight(share=0.5, steps=2),
            "hint": FixedWeight(7),
        }

    def step(weights, pair):
        return [_weigh(weights[name], pair[0], pair[1] * factor) for name, factor in (("vgd", 1e-6), ("cwd_bev", 1.0))]

    pairs = [(4.0, 0.5), (8.0, 0.1), (5.0, 0.7), (1.0, 0.2)]
    whole, first, second = fresh(), fresh(), fresh()
    losses = [step(whole, pair) for pair in pairs]
    resumed = [step(first, pair) for pair in pairs[:2]]
    Weights(second).load_state_tensors(Weights(first).state_tensors())
    resumed += [step(second, pair) for pair in pairs[2:]]
    assert resumed == losses and Weights(second).values == Weights(whole).values
    expected = {"vgd": 0.1 * 17 / 1.3e-6, "cwd_bev": 0.5 * 12 / 0.6, "hint": 7}
    assert Weights(whole).values == pytest.approx(expected)


def test_fixed_weight():
    weight = FixedWeight(2.5)
    assert _weigh(weight, 7.0, 0.5) == 1.25 and weight.value == 2.5 and weight.state_tensors() == {}


@pytest.mark.parametrize("share,steps", [(0.0, 1), (float("nan"), 1), (0.1, 0)])
def test_refuses_shares_and_steps(share, steps):
    with pytest.raises(ValueError, match="expected share > 0 and steps >= 1"):
        AutoWeight(share=share, steps=steps)


@pytest.mark.parametrize("value", [-1.0, float("inf")])
def test_refuses_weights(value):
    with pytest.raises(ValueError, match="distillation weight"):
        FixedWeight(value)
