"""Transposed convolutions: an explicit loop, scales of outputs, folding, equalisation, packing, tied weights."""

from __future__ import annotations

import copy
import itertools
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from qdbev.quantization import (
    Pair,
    WeightGrid,
    absorb_biases,
    correct_analytically,
    equalise,
    find_connections,
    fold_batchnorm,
    learn_ranges,
    make_plan,
    observing,
    pack_model,
    packed_size_bytes,
    quantize,
    quantized_layers,
    scale_of_range,
    set_parts,
    settle_ranges,
    size_bytes,
    thaw_norms,
    unpack_model,
)
from qdbev.quantization.equalisation.cross_layer import incoming_range, outgoing_range
from qdbev.quantization.equalisation.folding import ChannelStatistics, apply_folding
from qdbev.quantization.equalisation.links import Link
from qdbev.quantization.planning.output_channels import as_held, outputs_first

GROUPS = [1, 2]
X = torch.randn(2, 4, 5, 3, generator=torch.Generator().manual_seed(1))


def up(groups: int, **options: Any) -> nn.ConvTranspose2d:
    """4 inputs, 6 outputs, each input and each output with numbers of a size of its own."""
    torch.manual_seed(3)
    place = {"stride": 2, "padding": 1, "output_padding": 1} | options
    layer = nn.ConvTranspose2d(4, 6, (3, 2), groups=groups, **place)
    with torch.no_grad():
        layer.weight *= torch.rand_like(layer.weight[:, :1, :1, :1]) * torch.rand_like(layer.weight[:1, :, :1, :1]) * 4
    return layer


def calibrated(model: nn.Module, x: Tensor = X, *, bits: tuple[int, int] = (3, 5), **grids: Any) -> Any:
    quantize(model, make_plan(model, parts={"all": [""]}, weight_bits=bits[0], activation_bits=bits[1]), **grids)
    with observing(model), torch.no_grad():
        model(x)
    set_parts(model, {"all"})
    return model.eval()


def weights_of(layer: nn.ConvTranspose2d, output: int) -> Tensor:
    """The weights of one output channel (inputs of its group, kernel), found by hand."""
    inputs, outputs = layer.in_channels // layer.groups, layer.out_channels // layer.groups
    group, place = divmod(output, outputs)
    return layer.weight.detach()[group * inputs : (group + 1) * inputs, place]


def on_grid(x: Tensor, *, bits: int) -> Tensor:
    """Eq. 1, written out."""
    scale = 2 * x.abs().max() / (2**bits - 1)
    return (x / scale).round().clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) * scale


def by_loop(layer: nn.ConvTranspose2d, x: Tensor, *, bits: tuple[int, int]) -> Tensor:
    """Each input pixel goes through the kernel of each output of its group, all quantized by hand."""
    x, inputs = on_grid(x, bits=bits[1]), layer.in_channels // layer.groups
    height, width = ((side - 1) * 2 - 2 + size + 1 for side, size in zip(x.shape[2:], layer.kernel_size, strict=True))
    result = torch.zeros(len(x), layer.out_channels, height, width)
    for output in range(layer.out_channels):
        weight = on_grid(weights_of(layer, output), bits=bits[0])
        first = output // (layer.out_channels // layer.groups) * inputs
        places = itertools.product(range(inputs), range(x.shape[2]), range(x.shape[3]), range(3), range(2))
        for number, row, column, a, b in places:
            y, z = 2 * row - 1 + a, 2 * column - 1 + b
            if 0 <= y < height and 0 <= z < width:
                result[:, output, y, z] += x[:, first + number, row, column] * weight[number, a, b]
    assert layer.bias is not None
    return result + layer.bias.detach()[:, None, None]


@pytest.mark.parametrize("groups", GROUPS)
@torch.no_grad()
def test_it_is_the_loop_over_pixels_and_taps(groups: int) -> None:
    layer = up(groups)
    expected = by_loop(layer, X, bits=(3, 5))
    assert expected.shape == layer(X).shape and not torch.allclose(expected, layer(X), atol=0.1)
    torch.testing.assert_close(calibrated(layer)(X), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("groups", GROUPS)
def test_a_scale_belongs_to_an_output_channel(groups: int) -> None:
    layer = calibrated(up(groups))
    largest = torch.stack([weights_of(layer, output).abs().max() for output in range(6)])
    assert torch.equal(layer.weight_quantizer.scale, scale_of_range(largest, bits=3))
    assert largest.unique().numel() == 6  # of the first axis there are four
    assert torch.equal(as_held(outputs_first(layer.weight, turned=groups), turned=groups), layer.weight)


@pytest.mark.parametrize("groups", GROUPS)
def test_off_it_is_the_float_layer_and_on_its_gradients_are_those_of_the_parts(groups: int) -> None:
    layer, plain = calibrated(up(groups), weights=WeightGrid(follow=False)), up(groups)
    set_parts(layer, [])
    sizes = {"output_size": [9, 5]}
    assert torch.equal(layer(X, **sizes), plain(X, **sizes))
    set_parts(layer, {"all"})
    learn_ranges(layer, weights=True, inputs=True)
    x = X.clone().requires_grad_()
    layer(x).square().sum().backward()
    other = X.clone().requires_grad_()
    weight = as_held(layer.weight_quantizer(outputs_first(plain.weight, turned=groups)), turned=groups)
    out = nn.functional.conv_transpose2d(layer.input_quantizer(other), weight, plain.bias, 2, 1, 1, groups)
    out.square().sum().backward()
    torch.testing.assert_close(x.grad, other.grad)
    torch.testing.assert_close(layer.weight.grad, plain.weight.grad)
    settle_ranges(layer)


@pytest.mark.parametrize("granularity", ["channel", "tensor"])
@pytest.mark.parametrize("groups", GROUPS)
@torch.no_grad()
def test_what_is_unpacked_is_what_was_quantized(groups: int, granularity: Literal["channel", "tensor"]) -> None:
    model = calibrated(nn.Sequential(up(groups)), weights=WeightGrid(granularity=granularity))
    layer, packed = model[0], pack_model(model, rest="fp32")
    assert packed["0.weight_groups"].item() == groups and packed["0.weight_shape"].tolist() == list(layer.weight.shape)
    assert size_bytes(pack_model(model)) == packed_size_bytes(model)
    state = unpack_model(packed)
    expected = as_held(layer.weight_quantizer(layer.rows), turned=groups)
    assert torch.equal(state["0.weight"], expected) and "0.weight_groups" not in state
    other = calibrated(nn.Sequential(up(groups)), 2 * X, weights=WeightGrid(granularity=granularity))
    other.load_state_dict(state)
    assert torch.equal(other(X), model(X))


@pytest.mark.parametrize("groups", GROUPS)
@torch.no_grad()
def test_a_batch_norm_behind_it_is_folded(groups: int) -> None:
    model = nn.Sequential(up(groups, bias=False), nn.BatchNorm2d(6), nn.ReLU())
    model[1].running_mean.copy_(torch.randn(6))
    model[1].running_var.copy_(torch.rand(6) + 0.1)
    model[1].weight.copy_(torch.randn(6))
    expected, structure = model.eval()(X), copy.deepcopy(model)
    folding = fold_batchnorm(model, lambda: model(X))
    assert folding.pairs == (("0", "1"),)
    torch.testing.assert_close(model(X), expected, rtol=0, atol=1e-5)
    apply_folding(structure, folding.pairs)
    structure.load_state_dict(model.state_dict())
    assert torch.equal(structure(X), model(X))


@pytest.mark.parametrize("groups", GROUPS)
def test_a_live_norm_folds_without_a_trace(groups: int) -> None:
    model = calibrated(nn.Sequential(up(groups)), weights=WeightGrid(follow=False, scale_rule="hawq"))
    norms = thaw_norms(model, ["0"], lambda: model(X))
    with torch.no_grad():
        norms.norms["0"].weight.mul_(torch.rand(6) + 0.5)
        expected = model(X)
        norms.fold()
        torch.testing.assert_close(model(X), expected, rtol=1e-4, atol=1e-5)


class Chain(nn.Module):
    def __init__(self, groups: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.up, self.last = nn.Conv2d(4, 4, 1), up(groups), nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.up(self.first(x).relu()).relu())
        return out


@pytest.mark.parametrize("groups", GROUPS)
@torch.no_grad()
def test_equalisation_reaches_its_inputs_and_its_outputs(groups: int) -> None:
    model = Chain(groups)
    expected, connections = model(X), find_connections(model, lambda: model(X))
    assert connections.pairs == (Pair("first", ("up",)), Pair("up", ("last",)))
    equalise(model, connections.pairs)
    torch.testing.assert_close(model(X), expected, rtol=1e-4, atol=1e-5)
    for first, (second,) in connections.pairs:
        torch.testing.assert_close(outgoing_range(model, first), incoming_range(model, second), rtol=1e-3, atol=0)
    hands = torch.stack([weights_of(model.up, output).abs().max() for output in range(6)])
    assert torch.equal(outgoing_range(model, "up"), hands)


def test_a_constant_is_not_absorbed_by_it() -> None:
    model = Chain(1)
    connections = find_connections(model, lambda: model(X))
    statistics = {"first": ChannelStatistics(torch.full((4,), 5.0).double(), torch.ones(4).double())}
    assert "up is transposed" in absorb_biases(model, connections, statistics).refused["first"]


@pytest.mark.parametrize("groups", GROUPS)
@torch.no_grad()
def test_the_mean_error_of_its_outputs_is_taken_off_the_bias(groups: int) -> None:
    model = calibrated(nn.Sequential(up(groups, padding=0)), weights=WeightGrid(follow=False))
    mean, before = torch.rand(4).double(), model[0].bias.clone()
    x = mean.float()[None, :, None, None].expand(1, 4, 16, 16)
    set_parts(model, [])
    expected = model(x)
    statistics = {"before": ChannelStatistics(mean, torch.zeros(4).double())}
    correct_analytically(model, {"0": Link("before", ())}, statistics)
    model[0].input_quantizer.state, model[0].weight_quantizer.state = "off", "on"

    def inside(image: Tensor) -> Tensor:
        return image[0, :, 4:28, 4:28].mean((1, 2))  # as many outputs of each phase

    torch.testing.assert_close(inside(model(x)), inside(expected), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(model[0].bias, before, atol=1e-3)


def test_a_weight_that_a_convolution_holds_too_stays_in_float() -> None:
    class Autoencoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down, self.up = nn.Conv2d(4, 6, 3), nn.ConvTranspose2d(6, 4, 3)
            self.up.weight = self.down.weight

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.up(self.down(x))
            return out

    plan = make_plan(Autoencoder(), parts={"all": [""]}, weight_bits=4, activation_bits=6)
    assert {site.path: site.quantized for site in plan} == {"down": False, "up": False}
    assert "holds a weight of up too" in plan.site("down").reason
    assert not quantized_layers(quantize(Autoencoder(), plan))
