"""The bit layout by hand, and the law: unpacked equals fake-quantized."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from qdbev.quantization.grid.integers import integer_limits
from qdbev.quantization.layers.grids import InputGrid, WeightGrid
from qdbev.quantization.layers.packing import (
    pack_bits,
    pack_model,
    packed_size_bytes,
    size_bytes,
    unpack_bits,
    unpack_model,
)
from qdbev.quantization.layers.quantized import QuantizedLayer
from qdbev.quantization.layers.swap import observing, quantize, set_parts
from qdbev.quantization.planning.policy import make_plan

X = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(1))


class Toy(nn.Module):
    def __init__(self, *, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv = nn.Conv2d(3, 8, 3)
        self.queries = nn.Embedding(5, 8)
        self.attn = nn.MultiheadAttention(8, 2, batch_first=True)
        self.out_proj = nn.Linear(8, 3)
        self.scale = nn.Parameter(torch.tensor([1e6]))  # does not fit float16

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.conv(x).flatten(2).transpose(1, 2)
        query = self.queries.weight[None].expand(len(x), -1, -1)
        return self.out_proj(self.attn(query, tokens, tokens)[0]) * self.scale / 1e6


def quantized(*, bits: int, seed: int = 0, **grids: WeightGrid | InputGrid) -> Toy:
    model = Toy(seed=seed).eval()
    quantize(model, make_plan(model, parts={"all": [""]}, weight_bits=bits, activation_bits=6), **grids)  # type: ignore[arg-type]
    return model


def calibrated(*, bits: int, **grids: WeightGrid | InputGrid) -> Toy:
    model = quantized(bits=bits, **grids)
    with observing(model), torch.no_grad():
        model(X)
    set_parts(model, {"all"})
    return model


def test_four_bits_by_hand() -> None:
    # 1 + 8 = 9 in the low nibble, -8 + 8 = 0 in the high one: 0x09; 7 + 8 = 15, -1 + 8 = 7: 0x7f
    assert pack_bits(torch.tensor([1, -8, 7, -1]), bits=4).tolist() == [0x09, 0x7F]


def test_six_bits_by_hand() -> None:
    # 32, 33, 0, 63 as a stream of low bits first: 000001 100001 000000 111111 -> bytes 0x60, 0x08, 0xfc
    assert pack_bits(torch.tensor([0, 1, -32, 31]), bits=6).tolist() == [0x60, 0x08, 0xFC]


def test_eight_bits_are_shifted_bytes() -> None:
    assert pack_bits(torch.tensor([-128, 0, 127]), bits=8).tolist() == [0, 128, 255]


def test_four_bits_seen_as_int32_hold_the_first_element_lowest() -> None:
    integers = torch.arange(-8, 8)
    words = pack_bits(integers, bits=4).view(torch.int32).tolist()
    expected = [sum(((int(q) + 8) & 15) << (4 * i) for i, q in enumerate(integers[8 * w : 8 * w + 8])) for w in (0, 1)]
    assert [word & 0xFFFFFFFF for word in words] == expected


@given(bits=st.integers(2, 8), count=st.integers(0, 70), seed=st.integers(0, 1000))
def test_unpack_inverts_pack_and_packing_is_dense(bits: int, count: int, seed: int) -> None:
    low, high = integer_limits(bits)
    integers = torch.randint(low, high + 1, (count,), generator=torch.Generator().manual_seed(seed))
    packed = pack_bits(integers, bits=bits)
    assert packed.dtype == torch.uint8 and packed.numel() == -(-count * bits // 8)
    assert torch.equal(unpack_bits(packed, bits=bits, count=count).long(), integers)


@given(bits=st.integers(2, 7), place=st.integers(0, 4))
def test_integers_that_do_not_fit_are_refused(bits: int, place: int) -> None:
    integers = torch.zeros(5, dtype=torch.int16)
    integers[place] = 1 << (bits - 1)
    with pytest.raises(ValueError, match="must lie in"):
        pack_bits(integers, bits=bits)


def test_truncated_bytes_and_wide_integers_are_refused() -> None:
    with pytest.raises(ValueError, match="4 bytes of uint8, got 3"):
        unpack_bits(torch.zeros(3, dtype=torch.uint8), bits=4, count=7)
    with pytest.raises(ValueError, match="2 to 8 bits"):
        pack_bits(torch.zeros(3, dtype=torch.int16), bits=9)


@settings(max_examples=20)
@given(
    bits=st.integers(2, 8),
    rule=st.sampled_from(["qdbev", "hawq"]),
    narrow=st.booleans(),
    granularity=st.sampled_from(["channel", "tensor"]),
)
def test_unpacked_weights_equal_fake_quantized_ones(
    bits: int, rule: str, narrow: bool, granularity: Literal["channel", "tensor"]
) -> None:
    weights = WeightGrid(scale_rule=rule, narrow_range=narrow, granularity=granularity)
    model = calibrated(bits=bits, weights=weights, inputs=InputGrid(scale_rule=rule, narrow_range=narrow))
    state = unpack_model(pack_model(model))
    seen = 0
    for path, layer in model.named_modules():
        if isinstance(layer, QuantizedLayer):
            for weight in layer.quantized_weights():
                assert torch.equal(state[f"{path}.{weight.name}"], weight.quantizer(weight.value)), path
                seen += 1
    assert seen == 5


@pytest.mark.parametrize("bits", [4, 6, 8])
def test_the_unpacked_model_computes_the_same(bits: int) -> None:
    model, fresh = calibrated(bits=bits), quantized(bits=bits, seed=7)
    fresh.load_state_dict(unpack_model(pack_model(model, rest="fp32")), strict=True)
    set_parts(fresh, {"all"})
    assert torch.equal(fresh(X), model(X))
    again = unpack_model(pack_model(fresh, rest="fp32"))  # packing what was unpacked changes nothing
    assert all(torch.equal(value, again[name]) for name, value in fresh.state_dict().items())


def test_names_types_and_bytes() -> None:
    tensors = pack_model(calibrated(bits=4))
    assert tensors["conv.weight_packed"].numel() == 8 * 27 // 2 and "conv.weight" not in tensors
    assert tensors["conv.weight_shape"].tolist() == [8, 3, 3, 3]
    assert tensors["attn.in_proj_weight_packed"].numel() == 24 * 8 // 2
    assert tensors["attn.out_proj.weight_packed"].numel() == 8 * 8 // 2
    assert tensors["conv.bias"].dtype == torch.float16 and tensors["scale"].dtype == torch.float32
    assert tensors["conv.input_quantizer.scale"].dtype == tensors["conv.weight_scale"].dtype == torch.float32
    assert "conv.weight_quantizer.scale" not in tensors
    by_hand = sum(value.element_size() * value.numel() for value in tensors.values())
    assert size_bytes(tensors) == by_hand


def test_half_precision_comes_back_as_float32_and_integers_as_they_are() -> None:
    tensors = pack_model(calibrated(bits=4))
    state = unpack_model(tensors)
    assert state["conv.bias"].dtype == torch.float32
    assert torch.equal(state["conv.bias"], tensors["conv.bias"].float())
    flags = "conv.weight_quantizer.flags"
    assert state[flags].dtype == tensors[flags].dtype and torch.equal(state[flags], tensors[flags])


def test_packing_does_not_change_the_model() -> None:
    model = calibrated(bits=4)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    pack_model(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.conv.weight_quantizer.follows  # type: ignore[union-attr]


@pytest.mark.parametrize("lost", ["conv.weight_scale", "conv.weight_shape", "conv.weight_quantizer.flags"])
def test_an_incomplete_file_is_refused_by_name(lost: str) -> None:
    tensors = pack_model(calibrated(bits=4))
    del tensors[lost]
    with pytest.raises(ValueError, match=rf"conv\.weight lacks {lost}"):
        unpack_model(tensors)


def test_a_truncated_weight_is_refused_by_name() -> None:
    tensors = pack_model(calibrated(bits=4))
    tensors["conv.weight_packed"] = tensors["conv.weight_packed"][:-1]
    with pytest.raises(ValueError, match=r"conv\.weight: 216 integers of 4 bits are 108 bytes"):
        unpack_model(tensors)


def test_a_frozen_quantizer_without_range_is_refused() -> None:
    with pytest.raises(ValueError, match="has no range"):
        pack_model(quantized(bits=4, weights=WeightGrid(follow=False)))


def test_an_unknown_type_of_the_rest_is_refused() -> None:
    with pytest.raises(ValueError, match="fp16 or fp32"):
        pack_model(calibrated(bits=4), rest="int8")  # type: ignore[arg-type]


@pytest.mark.parametrize("bits", [3, 4, 8])
def test_the_packed_size_is_known_without_packing(bits: int) -> None:
    model = calibrated(bits=bits)
    model.scale.data.fill_(2.0)  # what float16 cannot hold is the one thing that shapes do not tell
    packed = size_bytes(pack_model(model))
    assert packed_size_bytes(model) == packed
    assert packed_size_bytes(quantized(bits=bits).to("meta")) == packed
