"""Products of bytes against sums of 64 bits, and against float layers in float64."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from qdbev.ops import Bytes, integer_products, integer_weight_bits

CPU = Path("/proc/cpuinfo")
BITS = integer_weight_bits()
LARGEST = (1 << max(BITS, 2) - 1) - 1
needed = pytest.mark.skipif(not BITS, reason="this CPU does not multiply bytes")

PLACES = [
    {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "groups": 1},
    {"stride": (2, 1), "padding": (0, 2), "dilation": (2, 1), "groups": 1},
    {"stride": (1, 2), "padding": (1, 0), "dilation": (1, 1), "groups": 4},
]


def drawn(*shape: int, low: int, high: int, seed: int) -> Tensor:
    return torch.randint(low, high + 1, shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.skipif(not CPU.exists() or "ONEDNN_MAX_CPU_ISA" in os.environ, reason="what the CPU can do is not said")
def test_a_cpu_that_multiplies_bytes_is_noticed() -> None:
    flags = CPU.read_text().split()
    assert (8 if "avx512_vnni" in flags else 7 if "avx2" in flags else 0) == BITS


@needed
@pytest.mark.parametrize("zero", [0, 128])
@pytest.mark.parametrize("shape", [(3, 7), (2, 5, 64), (1, 2, 3, 200)])
def test_linear_sums_exactly(shape: tuple[int, ...], zero: int) -> None:
    x, weight = drawn(*shape, low=0, high=255, seed=0), drawn(9, shape[-1], low=-LARGEST - 1, high=LARGEST, seed=1)
    one = torch.ones(())
    out = integer_products.linear(Bytes(x.to(torch.uint8), one, zero), Bytes(weight.to(torch.int8), one), None)
    assert torch.equal(out, ((x - zero) @ weight.t()).float())


@needed
@pytest.mark.parametrize("zero", [0, 128])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("last", [False, True])
def test_convolution_sums_exactly(place: dict[str, tuple[int, ...]], zero: int, last: bool) -> None:
    x = drawn(2, 8, 11, 9, low=0, high=255, seed=0)
    weight = drawn(12, 8 // int(place["groups"]), 3, 3, low=-LARGEST - 1, high=LARGEST, seed=1)  # type: ignore[call-overload]
    values, one = x.to(torch.uint8), torch.ones(())
    values = values.to(memory_format=torch.channels_last) if last else values
    out = integer_products.convolution(Bytes(values, one, zero), Bytes(weight.to(torch.int8), one), None, **place)  # type: ignore[arg-type]
    expected = F.conv2d((x - zero).double(), weight.double(), None, **place)  # type: ignore[arg-type]
    assert torch.equal(out, expected.float())
    assert out.is_contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


@needed
@pytest.mark.parametrize("bias", [None, torch.randn(12).double()])
@pytest.mark.parametrize("place", [*PLACES, {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 2}])
def test_an_offset_is_not_added_to_the_zeros_around_an_image(
    place: dict[str, tuple[int, ...]], bias: Tensor | None
) -> None:
    x, offset = drawn(2, 8, 11, 9, low=0, high=63, seed=0), torch.tensor(-0.7)
    weight = drawn(12, 8 // int(place["groups"]), 3, 3, low=-8, high=7, seed=1)  # type: ignore[call-overload]
    scale, scales = torch.tensor(0.05), torch.rand(12, generator=torch.Generator().manual_seed(2)) + 0.1
    given = Bytes(x.to(torch.uint8), scale, 31), Bytes(weight.to(torch.int8), scales)
    out = integer_products.convolution(*given, bias, offset=offset, **place)  # type: ignore[arg-type]
    real = (x - 31) * scale.double() + offset.double(), weight * scales.double().view(-1, 1, 1, 1)
    torch.testing.assert_close(out.double(), F.conv2d(*real, bias, **place), rtol=1e-5, atol=1e-5)  # type: ignore[arg-type]
    rows = Bytes(given[0].values[:, :, 0, 0], scale, 31), Bytes(given[1].values[:, :, 0, 0], scales)
    if place["groups"] == 1:
        product = integer_products.linear(*rows, bias, offset=offset)
        expected = F.linear(real[0][:, :, 0, 0], real[1][:, :, 0, 0], bias)
        torch.testing.assert_close(product.double(), expected, rtol=1e-5, atol=1e-5)


@needed
def test_a_convolution_with_one_input_channel_is_refused() -> None:
    x, weight = torch.ones(1, 4, 9, 3, dtype=torch.uint8), torch.ones(12, 1, 2, 3, dtype=torch.int8)
    place = {"stride": (1, 2), "padding": (0, 0), "dilation": (1, 1), "groups": 4}
    with pytest.raises(ValueError, match="this one has one"):
        integer_products.convolution(Bytes(x, torch.ones(())), Bytes(weight, torch.ones(())), None, **place)  # type: ignore[arg-type]


@needed
@pytest.mark.parametrize("bias", [torch.randn(18)[::2], torch.randn(1).expand(9), torch.randn(9).double()])
def test_weight_and_bias_may_lie_in_any_way(bias: Tensor) -> None:
    x, weight, one = (
        drawn(5, 7, low=0, high=255, seed=0),
        drawn(7, 9, low=-LARGEST - 1, high=LARGEST, seed=1).t(),
        torch.ones(()),
    )
    given = Bytes(x.to(torch.uint8), one), Bytes(weight.to(torch.int8), one)
    assert not given[1].values.is_contiguous()
    expected = (x @ weight.t()) + bias.float()
    torch.testing.assert_close(integer_products.linear(*given, bias), expected)
    images = Bytes(given[0].values[..., None, None], one), Bytes(given[1].values[..., None, None], one)
    place = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1}
    torch.testing.assert_close(integer_products.convolution(*images, bias, **place).flatten(1), expected)  # type: ignore[arg-type]


@needed
def test_scales_and_bias_round_once_or_twice() -> None:
    x, weight = drawn(50, 300, low=0, high=63, seed=0), drawn(20, 300, low=-8, high=7, seed=1)
    scale, scales, bias = torch.tensor(0.037), torch.rand(20) + 0.01, torch.randn(20)
    out = integer_products.linear(Bytes(x.to(torch.uint8), scale), Bytes(weight.to(torch.int8), scales), bias)
    exact = (x @ weight.t()).double() * scale.double() * scales.double() + bias.double()
    assert ((out - exact).abs() / (exact.abs() + bias.abs())).max() < 4 * torch.finfo(torch.float32).eps


@needed
@pytest.mark.parametrize("name", ["linear", "convolution"])
@pytest.mark.parametrize("error", [AttributeError, RuntimeError])
def test_a_torch_without_it_is_noticed(name: str, error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    module = import_module("qdbev.ops.integer_products")

    def missing(*given: object, **place: object) -> Tensor:
        raise error(name)

    assert integer_weight_bits.__wrapped__()
    monkeypatch.setattr(module, name, missing)
    assert integer_weight_bits.__wrapped__() == 0
