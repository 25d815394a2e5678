"""Quantized convolution, linear, embedding and deformable convolution, by hand."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from qdbev.quantization.grid.fake_quantize import fake_quantize
from qdbev.quantization.grid.integers import scale_of_range
from qdbev.quantization.layers.quantized import (
    QuantConv2d,
    QuantEmbedding,
    QuantizedLayer,
    QuantLinear,
    deformable_class,
)
from qdbev.quantization.layers.swap import observing, quantize, set_parts
from qdbev.quantization.planning.policy import make_plan


def on(layer: nn.Module, *arguments: torch.Tensor, bits: int = 3) -> nn.Module:
    """Quantize one layer and calibrate it on one input; it is changed in place."""
    model = nn.ModuleDict({"layer": layer})
    quantize(model, make_plan(model, parts={"all": [""]}, weight_bits=bits, activation_bits=bits))
    with observing(model):
        layer(*arguments)
    set_parts(model, {"all"})
    return layer


def grid(x: torch.Tensor, *, axis: int | None = None, bits: int = 3) -> torch.Tensor:
    largest = x.abs().max() if axis is None else x.abs().flatten(1).amax(1)
    return fake_quantize(x, scale=scale_of_range(largest, bits=bits), bits=bits, axis=axis)


@pytest.mark.parametrize("settings", [{}, {"groups": 2, "stride": 2}, {"padding": 1, "padding_mode": "reflect"}])
def test_convolution_by_hand(settings: dict[str, object]) -> None:
    conv, x = nn.Conv2d(4, 6, 3, **settings), torch.randn(2, 4, 8, 8)  # type: ignore[arg-type]
    expected = copy.deepcopy(conv)
    expected.weight.data = grid(conv.weight.data, axis=0)
    on(conv, x)
    assert type(conv) is QuantConv2d and torch.equal(conv(x), expected(grid(x)))


def test_linear_by_hand() -> None:
    linear, x = nn.Linear(5, 4), torch.randn(2, 3, 5)
    expected = F.linear(grid(x), grid(linear.weight.detach(), axis=0), linear.bias)
    on(linear, x)
    assert type(linear) is QuantLinear and torch.equal(linear(x), expected)


def test_embedding_is_quantized_when_called_and_when_read() -> None:
    table, index = nn.Embedding(6, 4), torch.tensor([0, 5, 5, 2])
    expected = grid(table.weight.detach(), axis=0)
    parameter = table.weight
    on(table, index)
    assert type(table) is QuantEmbedding
    assert torch.equal(table.weight, expected) and torch.equal(table(index), expected[index])
    assert dict(table.named_parameters())["weight"] is parameter
    table(index).sum().backward()
    assert parameter.grad is not None and parameter.grad[5].sum() > parameter.grad[1].sum() == 0


class ModulatedDeformConv2d(nn.Module):
    """mmcv's call: input, offset, mask; sampling replaced by a plain convolution of the masked input."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3, 1, 1))
        self.register_parameter("bias", None)

    def forward(self, x: torch.Tensor, offset: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x * mask + offset, self.weight)


class ModulatedDeformConv2dPack(ModulatedDeformConv2d):
    """mmcv's pack: makes offset and mask itself."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_offset = nn.Conv2d(3, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        offset, mask = self.conv_offset(x).chunk(2, dim=1)
        return super().forward(x, offset, mask.sigmoid())


def test_deformable_convolution_by_hand() -> None:
    layer, x = ModulatedDeformConv2d(), torch.randn(2, 3, 4, 4)
    offset, mask = torch.randn(2, 1, 4, 4), torch.rand(2, 1, 4, 4)
    weight = layer.weight
    expected = F.conv2d(grid(x) * mask + offset, grid(weight.detach(), axis=0))
    on(layer, x, offset, mask)
    assert torch.equal(layer(x, offset, mask), expected)
    assert dict(layer.named_parameters())["weight"] is weight
    layer(x, offset, mask).sum().backward()
    assert weight.grad is not None


def test_pack_computes_offsets_from_the_quantized_input() -> None:
    layer, x = ModulatedDeformConv2dPack(), torch.randn(2, 3, 4, 4)
    float_layer = copy.deepcopy(layer)
    float_layer.weight.data = grid(layer.weight.data, axis=0)
    float_layer.conv_offset.weight.data = grid(layer.conv_offset.weight.data, axis=0)
    on(layer, x)
    assert isinstance(layer, ModulatedDeformConv2dPack) and isinstance(layer, QuantizedLayer)
    assert torch.equal(layer(x), float_layer(grid(x)))
    assert torch.equal(copy.deepcopy(layer)(x), layer(x))
    assert set(dict(layer.named_parameters())) == {"weight", "conv_offset.weight", "conv_offset.bias"}


def test_one_class_per_deformable_class() -> None:
    assert deformable_class(ModulatedDeformConv2d) is deformable_class(ModulatedDeformConv2d)


def test_mmcv_deformable_convolution() -> None:
    ops = pytest.importorskip("mmcv.ops")
    torch.manual_seed(0)
    layer, x = ops.ModulatedDeformConv2dPack(4, 6, 3, padding=1, bias=False), torch.randn(2, 4, 6, 6)
    layer.conv_offset.weight.data.normal_(0, 0.1)
    expected = copy.deepcopy(layer)
    expected.weight.data = grid(layer.weight.data, axis=0, bits=8)
    expected.conv_offset.weight.data = grid(layer.conv_offset.weight.data, axis=0, bits=8)
    on(layer, x, bits=8)
    torch.testing.assert_close(layer(x), expected(grid(x, bits=8)), atol=1e-6, rtol=0)


def test_saving_after_a_step_of_the_optimizer_saves_the_range_of_the_new_weight() -> None:
    linear, x = nn.Linear(5, 4), torch.randn(3, 5)
    on(linear, x, bits=4)
    linear.weight.data.mul_(3.0)
    saved = linear.state_dict()
    assert torch.equal(saved["weight_quantizer.scale"], scale_of_range(linear.weight.abs().amax(1), bits=4))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype: torch.dtype) -> None:
    linear, x = nn.Linear(8, 4), torch.randn(3, 8)
    on(linear, x, bits=8)
    full = linear(x)
    with torch.autocast("cpu", dtype=dtype):
        half = linear(x)
    assert half.dtype == dtype
    torch.testing.assert_close(half.float(), full, atol=0.05, rtol=0)
    half.float().sum().backward()
    assert linear.weight.grad is not None and linear.weight.grad.dtype == torch.float32
