"""Products of bytes against sums of 64 bits, and against float layers in float64."""

from importlib import import_module

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from qdbev.ops import Bytes, has_integer_products, integer_products

pytestmark = pytest.mark.skipif(not has_integer_products(), reason="this CPU does not multiply bytes")

PLACES = [
    {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "groups": 1},
    {"stride": (2, 1), "padding": (0, 2), "dilation": (2, 1), "groups": 1},
    {"stride": (1, 2), "padding": (1, 0), "dilation": (1, 1), "groups": 4},
]


def drawn(*shape: int, low: int, high: int, seed: int) -> Tensor:
    return torch.randint(low, high + 1, shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("zero", [0, 128])
@pytest.mark.parametrize("shape", [(3, 7), (2, 5, 64), (1, 2, 3, 200)])
def test_linear_sums_exactly(shape: tuple[int, ...], zero: int) -> None:
    x, weight = drawn(*shape, low=0, high=255, seed=0), drawn(9, shape[-1], low=-128, high=127, seed=1)
    one = torch.ones(())
    out = integer_products.linear(Bytes(x.to(torch.uint8), one, zero), Bytes(weight.to(torch.int8), one), None)
    assert torch.equal(out, ((x - zero) @ weight.t()).float())


@pytest.mark.parametrize("zero", [0, 128])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("last", [False, True])
def test_convolution_sums_exactly(place: dict[str, tuple[int, ...]], zero: int, last: bool) -> None:
    x = drawn(2, 8, 11, 9, low=0, high=255, seed=0)
    weight = drawn(12, 8 // int(place["groups"]), 3, 3, low=-128, high=127, seed=1)  # type: ignore[call-overload]
    values, one = x.to(torch.uint8), torch.ones(())
    values = values.to(memory_format=torch.channels_last) if last else values
    out = integer_products.convolution(Bytes(values, one, zero), Bytes(weight.to(torch.int8), one), None, **place)  # type: ignore[arg-type]
    expected = F.conv2d((x - zero).double(), weight.double(), None, **place)  # type: ignore[arg-type]
    assert torch.equal(out, expected.float()) and out.is_contiguous(memory_format=torch.channels_last)


def test_scales_and_bias_round_once_or_twice() -> None:
    x, weight = drawn(50, 300, low=0, high=63, seed=0), drawn(20, 300, low=-8, high=7, seed=1)
    scale, scales, bias = torch.tensor(0.037), torch.rand(20) + 0.01, torch.randn(20)
    out = integer_products.linear(Bytes(x.to(torch.uint8), scale), Bytes(weight.to(torch.int8), scales), bias)
    exact = (x @ weight.t()).double() * scale.double() * scales.double() + bias.double()
    assert ((out - exact).abs() / (exact.abs() + bias.abs())).max() < 4 * torch.finfo(torch.float32).eps


def test_a_torch_without_it_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    module = import_module("qdbev.ops.integer_products")

    def missing(*given: object) -> Tensor:
        raise AttributeError("qlinear_prepack")

    monkeypatch.setattr(module, "linear", missing)
    assert not has_integer_products.__wrapped__()
