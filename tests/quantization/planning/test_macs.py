"""Multiply-accumulates by hand: layers, attention products, sampling, deformable convolutions."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from qdbev.quantization.layers.swap import quantize
from qdbev.quantization.planning.macs import MacLine, count_macs
from qdbev.quantization.planning.policy import make_plan


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2)
        self.attn = nn.MultiheadAttention(6, 2, batch_first=True)
        self.branch = nn.Linear(6, 5)
        self.norm = nn.LayerNorm(6)

    def forward(self, x: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
        tokens = self.conv(x).flatten(2).transpose(1, 2)
        out = self.norm(self.attn(query, tokens, value=tokens)[0])
        return self.branch(out) + self.branch(out)


PARTS = {"backbone": ["conv"], "head": ["attn", "branch", "norm"]}


def lines() -> tuple[Toy, list[MacLine]]:
    model = Toy()
    return model, count_macs(model, lambda: model(torch.zeros(2, 4, 8, 10), torch.zeros(2, 3, 6)))


def test_macs_by_hand() -> None:
    _, macs = lines()
    counted = {(line.path, line.kind): (line.macs, line.calls) for line in macs}
    # conv: 2 images x 6 channels x 4 x 5 pixels x (2 channels of the group x 9); 20 tokens for 3 queries of width 6
    assert counted == {
        ("conv", "conv2d"): (2 * 6 * 4 * 5 * 2 * 9, 1),
        ("attn", "attention"): (2 * 6 * 6 * (3 + 20 + 20 + 3), 1),
        ("attn", "attention_product"): (2 * 2 * 3 * 20 * 6, 1),
        ("branch", "linear"): (2 * (2 * 3 * 5 * 6), 2),
    }


@pytest.mark.parametrize("batch_first", [True, False])
def test_attention_products_know_the_sequence_axis(batch_first: bool) -> None:
    attention = nn.MultiheadAttention(4, 2, batch_first=batch_first)
    query, key = torch.zeros(2, 3, 4), torch.zeros(2, 5, 4)
    if not batch_first:
        query, key = query.transpose(0, 1), key.transpose(0, 1)
    macs = count_macs(nn.ModuleDict({"a": attention}), lambda: attention(query, key, key))
    assert [line.macs for line in macs if line.kind == "attention_product"] == [2 * 2 * 3 * 5 * 4]


def test_a_quantized_model_counts_the_same() -> None:
    model, expected = lines()
    quantize(model, make_plan(model, parts=PARTS, weight_bits=4, activation_bits=6))
    assert count_macs(model, lambda: model(torch.zeros(2, 4, 8, 10), torch.zeros(2, 3, 6))) == expected


class DeformableAttention(nn.Module):
    """Offsets once per cell, sampled in every camera, as spatial cross-attention does."""

    def __init__(self, *, width: int, heads: int, points: int, cameras: int) -> None:
        super().__init__()
        self.heads, self.cameras = heads, cameras
        self.sampling_offsets = nn.Linear(width, heads * points * 2)
        self.value_proj = nn.Linear(width, width)

    def forward(self, query: torch.Tensor) -> torch.Tensor:
        self.sampling_offsets(query)
        return self.value_proj(query)[:, None].repeat(1, self.cameras, 1, 1)


def test_sampling_by_hand() -> None:
    model = nn.ModuleDict({"sca": DeformableAttention(width=8, heads=2, points=3, cameras=6)})
    macs = count_macs(model, lambda: model["sca"](torch.zeros(1, 10, 8)))
    # 6 cameras x 10 cells x (2 heads x 3 points) samples x 4 channels of a head x 5
    assert {line.kind: line.macs for line in macs}["sampling"] == 6 * 10 * 6 * 4 * 5


class ModulatedDeformConv2d(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(6, 4, 3, 3))

    def forward(self, x: torch.Tensor, offset: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return nn.functional.conv2d(x, self.weight)


def test_deformable_convolution_counts_its_kernel() -> None:
    model, x = nn.ModuleDict({"dcn": ModulatedDeformConv2d()}), torch.zeros(1, 4, 5, 5)
    (line,) = count_macs(model, lambda: model["dcn"](x, x, x))
    assert (line.kind, line.macs) == ("deformable_conv", 6 * 3 * 3 * 4 * 9)
