"""The written-out attention equals nn.MultiheadAttention, with every kind of mask."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import nn

from qdbev.quantization.grid.fake_quantize import fake_quantize
from qdbev.quantization.grid.integers import scale_of_range
from qdbev.quantization.layers.attention import QuantMultiheadAttention
from qdbev.quantization.layers.grids import InputGrid, WeightGrid
from qdbev.quantization.layers.swap import observing, quantize, set_parts
from qdbev.quantization.planning.policy import make_plan

QUERIES, KEYS, BATCH, WIDTH, HEADS = 5, 7, 3, 16, 4


def quantized(attention: nn.MultiheadAttention, *, bits: int = 16) -> nn.Module:
    model = nn.ModuleDict({"attn": attention})
    plan = make_plan(model, parts={"all": ["attn"]}, weight_bits=bits, activation_bits=bits)
    return quantize(model, plan, weights=WeightGrid(scale_rule="hawq"), inputs=InputGrid(scale_rule="hawq"))


def inputs(*, batch_first: bool, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    made = [torch.randn(BATCH, length, WIDTH, generator=generator) for length in (QUERIES, KEYS, KEYS)]
    query, key, value = made if batch_first else [x.transpose(0, 1) for x in made]
    return query, key, value


def masks(kind: str) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    forbidden = torch.rand(QUERIES, KEYS, generator=generator) > 0.7
    forbidden[:, 0] = False
    padding = torch.zeros(BATCH, KEYS, dtype=torch.bool)
    padding[1, 4:] = True
    known = {
        "none": {},
        "bool": {"attn_mask": forbidden},
        "float": {"attn_mask": torch.randn(QUERIES, KEYS, generator=generator)},
        "per head": {"attn_mask": forbidden.repeat(BATCH * HEADS, 1, 1)},
        "padding": {"key_padding_mask": padding},
        "both": {"attn_mask": forbidden, "key_padding_mask": padding},
    }
    return known[kind]


@pytest.mark.parametrize(
    ("batch_first", "bias", "mask", "need_weights"),
    list(product([True, False], [True, False], ["none", "both"], [True, False]))
    + [(True, True, mask, need) for mask in ("bool", "float", "per head", "padding") for need in (True, False)],
)
def test_the_explicit_path_equals_torch(batch_first: bool, bias: bool, mask: str, need_weights: bool) -> None:
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(WIDTH, HEADS, bias=bias, batch_first=batch_first)
    query, key, value = inputs(batch_first=batch_first)
    settings = {"need_weights": need_weights, **masks(mask)}
    expected, weights = attention(query, key, value, **settings)
    model = quantized(attention)
    with observing(model):  # observing takes the written-out path, with every quantizer passing through
        out, ours = attention(query, key, value, **settings)
    assert isinstance(attention, QuantMultiheadAttention)
    torch.testing.assert_close(out, expected, atol=1e-6, rtol=0)
    assert (ours is None) == (weights is None)
    if weights is not None:
        torch.testing.assert_close(ours, weights, atol=1e-6, rtol=0)


def test_unbatched_and_unaveraged() -> None:
    attention = nn.MultiheadAttention(WIDTH, HEADS)
    query, key, value = (x[:, 0] for x in inputs(batch_first=False))
    expected, weights = attention(query, key, value, average_attn_weights=False)
    with observing(quantized(attention)):
        out, ours = attention(query, key, value, average_attn_weights=False)
    torch.testing.assert_close(out, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(ours, weights, atol=1e-6, rtol=0)


def test_off_is_bit_identical_and_sixteen_bits_are_close() -> None:
    attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
    arguments = inputs(batch_first=True)
    expected, _ = attention(*arguments)
    model = quantized(attention)
    assert torch.equal(attention(*arguments)[0], expected)
    with observing(model):
        attention(*arguments)
    set_parts(model, {"all"})
    torch.testing.assert_close(attention(*arguments)[0], expected, atol=2e-3, rtol=0)


def test_every_projection_is_quantized_by_hand() -> None:
    """At three bits, against the same computation written with fake_quantize and no attention class."""
    torch.manual_seed(1)
    attention = nn.MultiheadAttention(WIDTH, 1, batch_first=True)
    query, key, value = inputs(batch_first=True)
    model = quantized(attention, bits=3)
    with observing(model):
        attention(query, key, value)
    r_out = attention.out_proj.input_quantizer.range  # type: ignore[union-attr]
    set_parts(model, {"all"})

    def grid(x: torch.Tensor, *, axis: int | None = None, r_max: torch.Tensor | None = None) -> torch.Tensor:
        largest = (x.abs().max() if axis is None else x.abs().amax(1)) if r_max is None else r_max
        return fake_quantize(x, scale=scale_of_range(largest, bits=3, rule="hawq"), bits=3, axis=axis)

    weight, bias = grid(attention.in_proj_weight, axis=0), attention.in_proj_bias
    q, k, v = (grid(x) @ w.T + b for x, w, b in zip((query, key, value), weight.chunk(3), bias.chunk(3), strict=True))
    mixed = torch.softmax(q @ k.transpose(1, 2) / WIDTH**0.5, -1) @ v
    expected = grid(mixed, r_max=r_out) @ grid(attention.out_proj.weight, axis=0).T + attention.out_proj.bias
    torch.testing.assert_close(attention(query, key, value)[0], expected, atol=1e-5, rtol=0)


def test_gradients_reach_every_parameter() -> None:
    attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
    model = quantized(attention, bits=6)
    with observing(model):
        attention(*inputs(batch_first=True))
    set_parts(model, {"all"})
    attention(*inputs(batch_first=True))[0].square().sum().backward()
    for name, parameter in attention.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_dropout_only_in_training() -> None:
    attention = nn.MultiheadAttention(WIDTH, HEADS, dropout=0.5, batch_first=True)
    model = quantized(attention)
    arguments = inputs(batch_first=True)
    model.eval()
    with observing(model):
        attention(*arguments)
    set_parts(model, {"all"})
    assert torch.equal(attention(*arguments)[0], attention(*arguments)[0])
    model.train()
    assert not torch.equal(attention(*arguments)[0], attention(*arguments)[0])


def test_names_of_the_state() -> None:
    names = set(quantized(nn.MultiheadAttention(WIDTH, HEADS)).state_dict())
    assert {"attn.in_proj_weight", "attn.in_proj_bias", "attn.out_proj.weight", "attn.out_proj.bias"} <= names
    assert {name.removesuffix(".scale") for name in names if name.endswith(".scale")} == {
        "attn.in_proj_weight_quantizer",
        "attn.out_proj.weight_quantizer",
        "attn.query_quantizer",
        "attn.key_quantizer",
        "attn.value_quantizer",
        "attn.out_proj.input_quantizer",
    }
