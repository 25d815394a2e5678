"""Rounding that compensates: the Cholesky form against the plain OBQ loop, and what it promises of a network."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from qdbev.quantization import (
    InputMoments,
    Keeper,
    Quantizer,
    compensate_rounding,
    make_plan,
    observing,
    quantize,
    quantized_layers,
    set_parts,
)
from qdbev.quantization.layers.grids import WeightGrid
from qdbev.quantization.rounding.gptq import compensated


class Network(nn.Module):
    """Every kind of layer, one after the other; (2, 3, 12, 12) -> (2, 36, 5)."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=4)
        self.mirrored = nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect")
        self.bare = nn.Linear(8, 8, bias=False)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.last = nn.Linear(8, 5)

    def forward(self, image):
        x = self.mirrored(self.grouped(self.conv(image).relu()).relu()).flatten(2).transpose(1, 2)
        x = self.bare(x).relu()
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return self.last(x)


PARTS = {"all": ["conv", "grouped", "mirrored", "bare", "attention", "last"]}


def _network(activation_bits=8, follow=False):
    torch.manual_seed(0)
    model = Network().eval()
    image = torch.randn(2, 3, 12, 12).cumsum(-1) / 3  # neighbours resemble each other, as in pictures
    expected = model(image).detach()
    plan = make_plan(model, parts=PARTS, weight_bits=3, activation_bits=activation_bits)
    quantize(model, plan, weights=WeightGrid(follow=follow))
    with observing(model):
        model(image)
    return model, image, expected


def _quantizer(bits, largest):
    quantizer = Quantizer(name="toy", bits=bits, axis=0, channels=len(largest))
    quantizer.set_range(largest)
    return quantizer


def _plain_obq(weight, *, scale, bits, moment, damping):
    """One row at a time, one input at a time, the inverse taken anew for the inputs that are left."""
    hessian = moment + damping * moment.diagonal().mean() * torch.eye(len(moment), dtype=torch.float64)
    order = torch.argsort(moment.diagonal(), descending=True, stable=True).tolist()
    out = torch.empty_like(weight)
    for row, step in enumerate(scale.tolist()):
        left, w = list(order), weight[row].clone()
        while left:
            inverse = torch.linalg.inv(hessian[left][:, left])
            first = left[0]
            rounded = (w[first] / step).round().clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) * step
            w[left] -= (w[first] - rounded) / inverse[0, 0] * inverse[0]
            out[row, first] = rounded
            left = left[1:]
    return out


def _errors(change, moment):
    return torch.einsum("oi,ij,oj->o", change, moment, change)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), bits=st.integers(2, 5), inputs=st.integers(1, 7))
def test_equals_the_plain_loop_and_is_never_worse_than_nearest(seed, bits, inputs):
    generator = torch.Generator().manual_seed(seed)
    draw = torch.randn(40, inputs, generator=generator, dtype=torch.float64).cumsum(1)
    moment = draw.T @ draw / 40
    weight = torch.randn(3, inputs, generator=generator, dtype=torch.float64)
    quantizer = _quantizer(bits, weight.abs().amax(1).float())
    scale = quantizer.scale
    result = compensated(weight, quantizer=quantizer, scale_O1=scale[:, None], moment_II=moment, damping=0.01)
    plain = _plain_obq(weight, scale=scale.double(), bits=bits, moment=moment, damping=0.01)
    nearest = quantizer.integers(weight).double() * scale[:, None].double()
    errors, of_nearest = _errors(result - weight, moment), _errors(nearest - weight, moment)
    of_plain = _errors(plain - weight, moment)
    assert (errors <= of_nearest + 1e-9).all()
    torch.testing.assert_close(errors, torch.minimum(of_plain, of_nearest), rtol=1e-6, atol=1e-9)


def test_moments_are_those_of_all_samples_together():
    samples = torch.randn(50, 4, dtype=torch.float64) @ torch.randn(4, 4, dtype=torch.float64) + 3
    moments = InputMoments()
    for chunk in samples.split(13):
        moments.add(chunk)
    torch.testing.assert_close(moments.mean, samples.mean(0))
    torch.testing.assert_close(moments.covariance, torch.cov(samples.T, correction=0))


def test_the_output_of_a_network_comes_nearer():
    model, image, expected = _network()
    set_parts(model, ["all"])
    before = (model(image) - expected).square().mean()
    done = compensate_rounding(model, lambda: model(image), ["all"])
    set_parts(model, ["all"])
    assert (model(image) - expected).square().mean() < 0.8 * before
    assert all(now <= nearest for nearest, now in done.errors.values())
    assert [(block.layer, block.weight, block.start) for block in done.errors] == [
        ("conv", "weight", 0),
        ("mirrored", "weight", 0),
        ("bare", "weight", 0),
        ("attention", "in_proj_weight", 0),
        ("attention", "in_proj_weight", 8),
        ("attention", "in_proj_weight", 16),
        ("attention", "out_proj.weight", 0),
        ("last", "weight", 0),
    ]
    assert list(done.refused) == ["grouped.weight"]


def test_weights_lie_on_their_grid_and_the_mean_of_the_output_is_that_of_float():
    model, image, expected = _network()
    compensate_rounding(model, lambda: model(image), ["all"], rounds=8)
    layer = quantized_layers(model)["last"]
    steps = layer.weight / layer.weight_quantizer.scale[:, None]
    torch.testing.assert_close(steps, steps.round(), rtol=0, atol=1e-4)
    assert steps.abs().max() <= 4
    set_parts(model, ["all"])
    torch.testing.assert_close(model(image).mean((0, 1)), expected.mean((0, 1)), rtol=1e-3, atol=1e-4)


def test_ranges_shrink_where_that_serves_the_output_better():
    whole, shrunk = _network(), _network()
    before = quantized_layers(whole[0])["last"].weight_quantizer.scale.clone()
    of_whole = compensate_rounding(whole[0], lambda: whole[0](whole[1]), ["all"], rounds=1, range_factors=(1.0,))
    of_shrunk = compensate_rounding(shrunk[0], lambda: shrunk[0](shrunk[1]), ["all"], rounds=1)
    assert torch.equal(quantized_layers(whole[0])["last"].weight_quantizer.scale, before)
    factors = quantized_layers(shrunk[0])["last"].weight_quantizer.scale / before
    assert factors.min() < 0.95 and factors.max() <= 1
    assert all(of_shrunk.errors[block][1] <= now + 1e-9 for block, (_, now) in of_whole.errors.items())


class Memory(Keeper):
    """Keeps copies, as a file would."""

    def __init__(self):
        self.tensors = {}

    def kept(self):
        return self.tensors

    def keep(self, tensors):
        self.tensors = {name: tensor.clone() for name, tensor in tensors.items()}


@pytest.mark.parametrize("stopped_in", [1, 2, 4])
def test_rounding_that_was_stopped_goes_on_bit_for_bit(stopped_in):
    whole, image, _ = _network()
    expected = compensate_rounding(whole, lambda: whole(image), ["all"], rounds=4)
    memory, runs = Memory(), []

    def run(model, stop):
        runs.append(stop)
        if stop and len(runs) == stop + 1:  # the samples run once in float, then once a round
            raise KeyboardInterrupt
        model(image)

    stopped, again = _network()[0], _network()[0]
    with pytest.raises(KeyboardInterrupt):
        compensate_rounding(stopped, lambda: run(stopped, stopped_in), ["all"], rounds=4, keeper=memory)
    runs.clear()
    done = compensate_rounding(again, lambda: run(again, 0), ["all"], rounds=4, keeper=memory)
    assert len(runs) == 4 - (stopped_in - 1)
    assert list(done.errors.items()) == list(expected.errors.items()) and done.refused == expected.refused
    for (name, value), other in zip(whole.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(value, other), name


def test_what_was_kept_of_other_layers_is_not_taken_up():
    model, image, _ = _network()
    memory = Memory()
    compensate_rounding(model, lambda: model(image), ["all"], keeper=memory)
    memory.tensors["0.weight"] = memory.tensors["0.weight"][:1]
    with pytest.raises(ValueError, match="of other layers"):
        compensate_rounding(model, lambda: model(image), ["all"], keeper=memory)


def test_other_parts_stay_as_they_are():
    model, image, _ = _network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for path, layer in quantized_layers(model).items():
        layer.site = replace(layer.site, part="end" if path == "last" else "rest")
    set_parts(model, ["rest"])
    compensate_rounding(model, lambda: model(image), ["end"], range_factors=(1.0,))
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"last.weight", "last.bias"}
    states = {path: {q.state for q in layer.quantizers()} for path, layer in quantized_layers(model).items()}
    assert states.pop("last") == {"off"} and all(state == {"on"} for state in states.values())


def test_says_what_it_leaves_alone():
    model, image, _ = _network(activation_bits=32)
    done = compensate_rounding(model, lambda: model(image), ["all"])
    assert not done.errors and set(done.refused.values()) == {"its input is in float, and not watched"}


def test_a_layer_that_never_ran_keeps_its_weights():
    model, _, _ = _network()
    before = model.last.weight.clone()
    done = compensate_rounding(model, lambda: None, ["all"])
    assert done.refused["last.weight"] == "it did not run" and torch.equal(model.last.weight, before)


def test_ranges_that_follow_are_refused():
    model, image, _ = _network(follow=True)
    with pytest.raises(ValueError, match=r"follows its weights.*frozen or learned"):
        compensate_rounding(model, lambda: model(image), ["all"])


@pytest.mark.parametrize("value", [0.0, 2.0])
def test_inputs_that_never_vary_round_to_nearest(value):
    moments = InputMoments()
    moments.add(torch.full((9, 3), value))
    weight = torch.tensor([[0.4, -1.2, 0.9]])
    quantizer = _quantizer(3, torch.tensor([1.75]))
    result = compensated(
        weight, quantizer=quantizer, scale_O1=quantizer.scale[:, None], moment_II=moments.covariance, damping=0.01
    )
    torch.testing.assert_close(result, torch.tensor([[0.5, -1.0, 1.0]], dtype=torch.float64))
