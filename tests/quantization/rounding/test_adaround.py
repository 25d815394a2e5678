"""Adaptive rounding: against every rounding of a small layer, on inputs it never saw, and on every kind of layer."""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from qdbev.quantization import (
    Quantizer,
    adaptive_rounding,
    make_plan,
    observing,
    quantize,
    quantized_layers,
    set_parts,
)
from qdbev.quantization.layers.grids import WeightGrid
from qdbev.quantization.rounding.adaround import learned
from qdbev.quantization.rounding.learned_rounding import Descent
from qdbev.quantization.rounding.quadratic import Quadratic, ReconstructionMoments


def _quantizer(bits, weight):
    quantizer = Quantizer(name="toy", bits=bits, axis=0, channels=len(weight))
    quantizer.set_range(weight.abs().amax(1))
    quantizer.state = "on"
    return quantizer


def _layer(seed, *, outputs, inputs, samples=200):
    """Weights, what they get quantized (coarse), and what they should give, for inputs that resemble each other."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, inputs, generator=generator).cumsum(1).relu()
    weight = torch.randn(outputs, inputs, generator=generator)
    return weight, (x * 4).round() / 4, x @ weight.T


def _quadratic(x, y, *, centred=True):
    moments = ReconstructionMoments()
    for rows in torch.arange(len(x)).chunk(3):
        moments.add(x[rows], y[rows])
    return moments.quadratic(centred=centred)


@pytest.mark.parametrize("centred", [True, False])
def test_the_form_is_the_mean_squared_error_of_the_outputs(centred):
    weight, x, y = _layer(0, outputs=3, inputs=5)
    left = (y + 7 - x @ (weight + 0.1).T).double()
    if centred:
        left = left - left.mean(0)
    made = _quadratic(x, y + 7, centred=centred).errors(weight + 0.1)
    torch.testing.assert_close(made, left.square().mean(0), rtol=1e-4, atol=1e-6)


def test_the_form_of_the_same_inputs_is_the_error_of_rounding_alone():
    weight, x, y = _layer(0, outputs=3, inputs=5)
    form = _quadratic(x, y * 5 - 3).of_same_inputs(weight)
    change = (x @ (weight + 0.1).T - x @ weight.T).double()
    expected = (change - change.mean(0)).square().mean(0)
    torch.testing.assert_close(form.errors(weight + 0.1), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_comes_near_the_best_of_all_roundings(seed):
    weight, x, y = _layer(seed, outputs=8, inputs=9)
    quantizer, form = _quantizer(3, weight), _quadratic(x, y)
    _, nearest, now = learned(
        weight, quantizer=quantizer, scale=quantizer.scale, moments=form, descent=Descent(500, 0.03)
    )
    steps = (weight / quantizer.scale[:, None]).floor()
    choices = torch.tensor(list(itertools.product([0.0, 1.0], repeat=9)))
    all_errors = torch.stack([form.errors((steps + ups).clamp(-4, 3) * quantizer.scale[:, None]) for ups in choices])
    best = all_errors.amin(0)
    assert (now <= nearest).all() and (now >= best - 1e-5).all()
    assert (now - best).sum() < 0.2 * (nearest - best).sum()


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10**6), bits=st.integers(2, 5), inputs=st.integers(1, 7), steps=st.sampled_from([1, 40]))
def test_is_never_worse_than_nearest_and_loads_as_it_was_learned(seed, bits, inputs, steps):
    weight, x, y = _layer(seed, outputs=3, inputs=inputs, samples=40)
    quantizer, form = _quantizer(bits, weight), _quadratic(x, y)
    made, nearest, now = learned(
        weight, quantizer=quantizer, scale=quantizer.scale, moments=form, descent=Descent(steps, 0.1)
    )
    assert (now <= nearest).all()
    torch.testing.assert_close(form.errors(made), now)
    assert torch.equal(quantizer(made), made)
    at = weight / quantizer.scale[:, None]
    low, high = (end.clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for end in (at.floor(), at.floor() + 1))
    taken = (made / quantizer.scale[:, None]).round()
    assert ((taken == low) | (taken == high)).all()


def test_one_scale_for_all_outputs():
    weight, x, y = _layer(1, outputs=3, inputs=6)
    quantizer = Quantizer(name="toy", bits=3)
    quantizer.set_range(weight.abs().max())
    made, nearest, now = learned(
        weight, quantizer=quantizer, scale=quantizer.scale, moments=_quadratic(x, y), descent=Descent(100, 0.1)
    )
    quantizer.state = "on"
    assert torch.equal(quantizer(made), made) and now.sum() < 0.7 * nearest.sum()


def test_inputs_that_never_vary_round_to_nearest():
    weight = torch.tensor([[0.4, -1.2, 0.9]])
    quantizer = _quantizer(3, torch.tensor([[1.75]]))
    zero = Quadratic(*(torch.zeros(*shape, dtype=torch.float64) for shape in ((3, 3), (1, 3), (1,))))
    made, _, _ = learned(weight, quantizer=quantizer, scale=quantizer.scale, moments=zero, descent=Descent(20, 0.1))
    torch.testing.assert_close(made, torch.tensor([[0.5, -1.0, 1.0]]))


class Network(nn.Module):
    """Every kind of layer, one after the other; (2, 3, 12, 12) -> (2, 36, 5)."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=4)
        self.bare = nn.Linear(8, 8, bias=False)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.last = nn.Linear(8, 5)

    def forward(self, image):
        x = self.grouped(self.conv(image).relu()).relu().flatten(2).transpose(1, 2)
        x = self.bare(x).relu()
        return self.last(x + self.attention(x, x, x, need_weights=False)[0])


def _images(seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(8, 3, 12, 12, generator=generator).cumsum(-1) / 3  # neighbours resemble each other


def _network(activation_bits=8, follow=False):
    torch.manual_seed(0)
    model, images = Network().eval(), _images(0)
    parts = {"all": ["conv", "grouped", "bare", "attention", "last"]}
    plan = make_plan(model, parts=parts, weight_bits=3, activation_bits=activation_bits)
    quantize(model, plan, weights=WeightGrid(follow=follow))
    with observing(model):
        model(images)
    return model, images


def _rounded(model, images, parts=("all",), iterations=200, **others):
    reference = copy.deepcopy(model)
    return adaptive_rounding(
        model, reference, lambda network: network(images), parts, iterations=iterations, learning_rate=0.05, **others
    )


@pytest.mark.parametrize("asymmetric", [False, True])
def test_the_output_of_a_network_comes_nearer_also_on_inputs_it_never_saw(asymmetric):
    model, images = _network()
    others = _images(1)
    expected = [model(batch) for batch in (images, others)]
    set_parts(model, ["all"])
    before = [(model(batch) - want).square().mean() for batch, want in zip((images, others), expected, strict=True)]
    seen = []
    done = _rounded(model, images, rounds=3, asymmetric=asymmetric, on_block=seen.append)
    set_parts(model, ["all"])
    for batch, want, was in zip((images, others), expected, before, strict=True):
        assert (model(batch) - want).square().mean() < 0.8 * was
    assert all(now <= nearest for nearest, now in done.errors.values())
    assert [(block.layer, block.weight, block.start) for block in done.errors] == [
        ("conv", "weight", 0),
        ("bare", "weight", 0),
        ("attention", "in_proj_weight", 0),
        ("attention", "in_proj_weight", 8),
        ("attention", "in_proj_weight", 16),
        ("attention", "out_proj.weight", 0),
        ("last", "weight", 0),
    ]
    assert list(done.refused) == ["grouped.weight"] and seen == [7] * 7
    for path in ("conv", "bare", "last"):  # what is stored is what runs
        layer = quantized_layers(model)[path]
        assert torch.equal(layer.weight_quantizer(layer.weight), layer.weight)


def test_the_mean_of_the_output_is_that_of_float():
    model, images = _network()
    expected = model(images)
    _rounded(model, images, rounds=7, iterations=10)
    set_parts(model, ["all"])
    torch.testing.assert_close(model(images).mean((0, 1)), expected.mean((0, 1)), rtol=1e-3, atol=1e-4)


def test_other_parts_stay_as_they_are():
    model, images = _network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for path, layer in quantized_layers(model).items():
        layer.site = replace(layer.site, part="end" if path == "last" else "rest")
    set_parts(model, ["rest"])
    _rounded(model, images, parts=["end"], iterations=10)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"last.weight", "last.bias"}
    states = {path: {q.state for q in layer.quantizers()} for path, layer in quantized_layers(model).items()}
    assert states.pop("last") == {"off"} and all(state == {"on"} for state in states.values())


def test_says_what_it_leaves_alone():
    model, images = _network(activation_bits=32)
    done = _rounded(model, images)
    assert not done.errors and set(done.refused.values()) == {"its input is in float, and not watched"}
    model, _ = _network()
    done = adaptive_rounding(
        model, copy.deepcopy(model), lambda network: None, ["all"], iterations=1, learning_rate=0.1
    )
    assert not done.errors and done.refused["last.weight"] == "it did not run"


def test_a_layer_that_runs_on_other_shapes_in_float_is_refused():
    model, images = _network()
    reference = copy.deepcopy(model)
    done = adaptive_rounding(
        model,
        reference,
        lambda network: network(images[:1] if network is reference else images),
        ["all"],
        iterations=1,
        learning_rate=0.1,
    )
    assert not done.errors and done.refused["last.weight"] == "it runs on other shapes in float"


def test_ranges_that_follow_are_refused():
    model, images = _network(follow=True)
    with pytest.raises(ValueError, match=r"follows its weights.*frozen or learned"):
        _rounded(model, images)
