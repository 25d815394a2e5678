"""A detector at the bits of a target: finer steps over the same range, the same weights, float where there is none."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from qdbev.export.targets.legal import put_onto_legal_bits
from qdbev.export.targets.rules import layer_of
from qdbev.quantization import InputGrid, Quantizer, WeightGrid, make_plan, observing, quantize, set_parts


def made(*, activation_bits: int = 6, width: int = 16, **options: bool) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(width, 40), nn.ReLU(), nn.Linear(40, 16)).eval()
    plan = make_plan(model, parts={"all": [""]}, weight_bits=4, activation_bits=activation_bits)
    quantize(model, plan, weights=WeightGrid(follow=False), inputs=InputGrid(**options))
    with torch.no_grad(), observing(model):
        model(torch.randn(64, width))
    set_parts(model, {"all"})
    return model


def grids(model: nn.Sequential) -> list[Quantizer]:
    return [model[place].input_quantizer for place in (0, 2)]  # type: ignore[misc]


def test_every_value_of_the_old_grid_is_one_of_the_new() -> None:
    for target in ("tensorrt", "qnn"):
        model = made(may_be_unsigned=True)
        before = [quantizer.scale.clone() for quantizer in grids(model)]
        weights = model[0].weight_quantizer(model[0].weight).clone()  # type: ignore[operator]
        put_onto_legal_bits(model, target=target)
        signed, behind_relu = grids(model)
        assert torch.equal(signed.scale, before[0] / 4) and (signed.bits, signed.unsigned) == (8, False)
        share = 2 if target == "tensorrt" else 4
        assert torch.equal(behind_relu.scale, before[1] / share)
        assert behind_relu.unsigned is (target == "qnn")
        for quantizer, scale, least, most in ((signed, before[0], -32, 31), (behind_relu, before[1], 0, 63)):
            old = torch.arange(least, most + 1) * scale
            assert torch.equal(quantizer(old), old)
            assert quantizer(old[-1] * 9) - old[-1] <= scale  # the range grew by less than one old step
        assert torch.equal(model[0].weight_quantizer(model[0].weight), weights)  # type: ignore[operator]


def test_an_offset_becomes_a_range_around_zero() -> None:
    model = made(has_offset=True)
    quantizer = grids(model)[1]
    assert quantizer.offset is not None
    ends = quantizer.offset + torch.tensor([-32.0, 31.0]) * quantizer.scale
    put_onto_legal_bits(model, target="qnn")
    assert quantizer.offset is None
    assert torch.allclose(quantizer.scale * 127, ends.abs().max())
    assert torch.allclose(quantizer(ends), ends, atol=float(quantizer.scale))


def test_narrow_products_run_in_float_on_the_values_of_their_integers() -> None:
    model = made(width=8)
    values = model[0].weight_quantizer(model[0].weight).clone()  # type: ignore[operator]
    followed = put_onto_legal_bits(model, target="tensorrt")
    assert (followed["0"].fate, followed["2"].fate) == ("float", "same range at 8 bits")
    assert torch.equal(model[0].weight, values)
    assert [quantizer.state for quantizer in grids(model)] == ["off", "on"]
    x = torch.randn(3, 8)
    assert torch.equal(model[0](x), nn.functional.linear(x, values, model[0].bias))


def test_more_than_a_byte_is_refused() -> None:
    with pytest.raises(ValueError, match="10 bits, and inputs on this target have 8 at most"):
        put_onto_legal_bits(made(activation_bits=10), target="qnn")


def test_a_convolution_that_skips_pixels_is_not_pointwise() -> None:
    assert layer_of("conv2d", (64, 32, 1, 1)).kind == "1x1 convolution"
    assert layer_of("conv2d", (64, 32, 1, 1), stride=2).kind == "convolution"
    assert layer_of("attention", (96, 32)).kind == "linear" and layer_of("embedding", (10, 32)).kind == "table"


@pytest.mark.parametrize("groups", [1, 2])
@torch.no_grad()
def test_a_transposed_convolution_is_left_in_float_on_the_values_of_its_integers(groups: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.ConvTranspose2d(4, 6, 2, stride=2, groups=groups)).eval()
    quantize(model, make_plan(model, parts={"all": [""]}, weight_bits=3, activation_bits=16))
    x = torch.randn(1, 4, 3, 3)
    with observing(model):
        model(x)
    set_parts(model, {"all"})
    model[0].input_quantizer.state = "off"  # type: ignore[union-attr, assignment]
    expected = model(x)
    assert put_onto_legal_bits(model, target="tensorrt")["0"].fate == "float"
    assert model[0].weight_quantizer.state == "off" and torch.equal(model(x), expected)  # type: ignore[union-attr]
