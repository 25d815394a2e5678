"""Learned ranges: LSQ's gradient against its formula in float64, and the way from a fixed range to one and back."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from qdbev.quantization.grid.fake_quantize import fake_quantize, fake_quantize_learned
from qdbev.quantization.grid.integers import integer_limits
from qdbev.quantization.layers.grids import WeightGrid
from qdbev.quantization.layers.model_ranges import learn_ranges, settle_ranges
from qdbev.quantization.layers.quantizer import Quantizer
from qdbev.quantization.layers.swap import observing, quantized_layers, set_parts
from tests.quantization.layers.test_swap import IMAGE, calibrated


def gradient_by_formula(x: torch.Tensor, *, scale: float, bits: int, upstream: torch.Tensor) -> float:
    """S times Eq. 3 of LSQ summed over the elements, in float64, one element after the other, times its 1/sqrt(N Q)."""
    low, high = integer_limits(bits)
    total = 0.0
    for value, gradient in zip(x.double().flatten().tolist(), upstream.double().flatten().tolist(), strict=True):
        steps = value / scale
        inside = low <= round(steps) <= high
        total += gradient * (round(steps) - steps if inside else (low if steps < 0 else high))
    return scale * total / math.sqrt(x.numel() * high)


@given(bits=st.integers(2, 8), seed=st.integers(0, 1000), size=st.integers(1, 40))
def test_gradient_per_tensor(bits: int, seed: int, size: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, upstream = torch.randn(size, generator=generator), torch.randn(size, generator=generator)
    log_scale = torch.tensor(2.0 / 2**bits).log().requires_grad_()
    fake_quantize_learned(x, log_scale=log_scale, bits=bits).backward(upstream)
    assert log_scale.grad is not None
    expected = gradient_by_formula(x, scale=float(log_scale.exp().detach()), bits=bits, upstream=upstream)
    assert log_scale.grad.item() == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gradient_per_channel_is_that_of_each_channel_alone(axis: int, layout: torch.memory_format) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 3, 4, 5, generator=generator).to(memory_format=layout)
    upstream = torch.randn(3, 3, 4, 5, generator=generator)
    log_scale = torch.tensor([-2.0, -1.5, -1.0], requires_grad=True)
    y = fake_quantize_learned(x, log_scale=log_scale, bits=4, axis=axis)
    y.backward(upstream)
    assert y.is_contiguous(memory_format=layout) and log_scale.grad is not None
    for channel in range(3):
        expected = gradient_by_formula(
            x.select(axis, channel),
            scale=math.exp(log_scale[channel].item()),
            bits=4,
            upstream=upstream.select(axis, channel),
        )
        assert log_scale.grad[channel].item() == pytest.approx(expected, abs=1e-5)


@given(bits=st.integers(2, 8), seed=st.integers(0, 1000))
def test_values_and_their_gradient_are_those_of_a_fixed_range(bits: int, seed: int) -> None:
    x = torch.randn(7, 5, generator=torch.Generator().manual_seed(seed))
    log_scale = torch.linspace(-3, 0, 5).requires_grad_()
    leaf, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    learned = fake_quantize_learned(leaf, log_scale=log_scale, bits=bits, axis=1)
    fixed = fake_quantize(other, scale=log_scale.exp(), bits=bits, axis=1)
    learned.square().sum().backward()
    fixed.square().sum().backward()
    assert torch.equal(learned, fixed)
    assert leaf.grad is not None and other.grad is not None and torch.equal(leaf.grad, other.grad)


def test_descent_finds_the_range_of_least_error() -> None:
    x = torch.cat([torch.randn(4000, generator=torch.Generator().manual_seed(0)), torch.tensor([9.0])])
    quantizer = Quantizer(name="toy", bits=4)
    quantizer.calibrate(x)
    quantizer.state = "on"
    quantizer.learn()
    optimiser = torch.optim.Adam(quantizer.parameters(), lr=0.02)
    for _ in range(200):
        optimiser.zero_grad()
        (quantizer(x) - x).square().mean().backward()
        optimiser.step()
    quantizer.settle()
    candidates = torch.linspace(0.5, 9.0, 171)
    errors = torch.stack([(fake_quantize(x, scale=r / 7.5, bits=4) - x).square().mean() for r in candidates])
    assert quantizer.range.item() == pytest.approx(candidates[errors.argmin()].item(), rel=0.1)
    assert list(quantizer.parameters()) == []


def test_learning_starts_and_ends_where_the_range_is() -> None:
    quantizer = Quantizer(name="toy", bits=4)
    quantizer.set_range(torch.tensor(15.0))
    quantizer.state = "on"
    names = set(quantizer.state_dict())
    quantizer.learn()
    x = torch.linspace(-20, 20, 41)
    assert quantizer(x).detach().equal(Quantizer.forward(quantizer, x).detach())
    with torch.no_grad():
        quantizer.trained.log_scale.add_(math.log(2.0))  # type: ignore[union-attr, operator]
    doubled = quantizer.integers(x)
    quantizer.settle()
    assert set(quantizer.state_dict()) == names and quantizer.range.item() == pytest.approx(30.0)
    assert quantizer.integers(x).equal(doubled)


@pytest.mark.parametrize("follow", [True, False])
def test_a_range_that_is_not_set_cannot_be_learned(follow: bool) -> None:
    with pytest.raises(ValueError, match="toy: a range is learned from one that is set"):
        Quantizer(name="toy", bits=4, follow=follow).learn()


def test_only_what_is_on_learns_and_settling_gives_the_model_its_parameters_back() -> None:
    model = calibrated(weights=WeightGrid(follow=False))
    names = [name for name, _ in model.named_parameters()]
    set_parts(model, ["backbone"])
    learn_ranges(model, weights=True, inputs=False)
    added = {name for name, _ in model.named_parameters()} - set(names)
    assert added == {"backbone.0.weight_quantizer.trained.log_scale", "backbone.2.weight_quantizer.trained.log_scale"}
    before, optimiser = model.backbone[0].weight_quantizer.scale.clone(), torch.optim.SGD(model.parameters(), lr=0.1)
    model(IMAGE).square().sum().backward()
    optimiser.step()
    trained = model(IMAGE)
    settle_ranges(model)
    assert [name for name, _ in model.named_parameters()] == names
    assert not model.backbone[0].weight_quantizer.scale.equal(before)
    assert torch.allclose(model(IMAGE), trained)


def test_inputs_that_are_fixed_are_not_learned() -> None:
    model = calibrated(weights=WeightGrid(follow=False))
    set_parts(model, ["backbone", "decoder"])
    learn_ranges(model, weights=False, inputs=True, fixed_inputs=["backbone.0"])
    learned = {name for name, _ in model.named_parameters() if "trained" in name}
    assert "backbone.2.input_quantizer.trained.log_scale" in learned
    assert not any(name.startswith("backbone.0.") for name in learned)


def test_ranges_of_one_part_are_chosen_anew_while_the_others_stay_on() -> None:
    model = calibrated(weights=WeightGrid(follow=False))
    layers = quantized_layers(model)
    before = {path: [q.scale.clone() for q in layer.quantizers()] for path, layer in layers.items()}
    set_parts(model, ["backbone"])
    seen: list[torch.Tensor] = []
    handle = model.backbone[2].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with observing(model, parts=["decoder"], observer="mse"), torch.no_grad():
        model(IMAGE)
    handle.remove()
    assert all(layer.site.part == "backbone" for layer in layers.values() if next(layer.quantizers()).state == "on")
    for path, layer in layers.items():
        same = all(q.scale.equal(old) for q, old in zip(layer.quantizers(), before[path], strict=True))
        assert same is (layer.site.part != "decoder"), path
    assert {q.observer for q in layers["branch.0"].quantizers()} == {"mse"}


def test_a_range_that_follows_its_tensor_stays_min_max() -> None:
    model = calibrated()
    with observing(model, observer="mse"), torch.no_grad():
        model(IMAGE)
    layer = model.backbone[0]
    assert layer.weight_quantizer.observer == "minmax" and layer.input_quantizer.observer == "mse"
    with pytest.raises(ValueError, match="only a min-max range can follow"):
        layer.weight_quantizer.choose_by("mse")


def test_a_quantized_linear_learns_with_its_weights() -> None:
    torch.manual_seed(0)
    weight, x = nn.Parameter(torch.randn(4, 8)), torch.randn(64, 8)
    quantizer = Quantizer(name="toy", bits=3, axis=0, channels=4)
    quantizer.calibrate(weight)
    quantizer.state = "on"
    quantizer.learn()
    target = x @ torch.randn(8, 4)
    optimiser = torch.optim.Adam([weight, *quantizer.parameters()], lr=0.02)
    losses = []
    for _ in range(300):
        optimiser.zero_grad()
        loss = (x @ quantizer(weight).t() - target).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]
