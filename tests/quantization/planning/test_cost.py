"""Eq. 7 by hand, and the paper's size rule."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from qdbev.quantization.layers.swap import quantize
from qdbev.quantization.planning.cost import (
    bops,
    macs_by_part,
    mean_bits,
    mixed_size_mb,
    nominal_size_mb,
    parameters_by_part,
    trainable_parameters,
    weights_by_site,
)
from qdbev.quantization.planning.macs import MacLine, count_macs
from qdbev.quantization.planning.plan import Plan, Site
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


def site(path: str, part: str, weight: int, activation: int) -> Site:
    return Site(path=path, part=part, kind="linear", weight_bits=weight, activation_bits=activation, reason="r")


def line(path: str, macs: int, kind: str = "linear") -> MacLine:
    return MacLine(path=path, kind=kind, macs=macs, calls=1)  # type: ignore[arg-type]


PLAN = Plan(sites=(site("a", "x", 4, 6), site("b", "x", 8, 8), site("c", "y", 32, 32)), parts=("x", "y"))
MACS = [line("a", 100), line("b", 10), line("c", 1), line("a", 7, "sampling")]


def test_equation_7_by_hand() -> None:
    # 4 x 6 x 100 + 8 x 8 x 10 = 3040, and 32 x 32 x 1 = 1024
    result = bops(PLAN, MACS)
    assert result.parts == {"x": 3040, "y": 1024} and result.total == 4064


def test_equation_7_with_parts_in_float_and_with_operations() -> None:
    assert bops(PLAN, MACS, active_parts=[]).total == 1024 * 111
    assert bops(PLAN, MACS, active_parts=["y"]).parts == {"x": 1024 * 110, "y": 1024}
    assert bops(PLAN, MACS, include_operations=True).total == 4064 + 1024 * 7


def test_the_papers_ratios_for_uniform_bits() -> None:
    model, macs = lines()
    full = bops(make_plan(model, parts=PARTS, weight_bits=32, activation_bits=32), macs).total
    for weight, activation, ratio in ((8, 8, 16), (4, 6, 1024 / 24), (4, 4, 64)):
        plan = make_plan(model, parts=PARTS, weight_bits=weight, activation_bits=activation)
        assert full / bops(plan, macs).total == pytest.approx(ratio)
    assert sum(macs_by_part(plan, macs).values()) * 1024 == full


def test_a_layer_without_a_site_is_refused() -> None:
    with pytest.raises(ValueError, match="z lies in no part of the plan"):
        bops(PLAN, [line("z", 5)])


def test_parameters_by_part() -> None:
    model = Toy()
    plan = make_plan(model, parts=PARTS, weight_bits=4, activation_bits=6)
    totals = parameters_by_part(model, plan)
    assert totals["backbone"] == 6 * 2 * 9 + 6
    assert sum(totals.values()) == sum(parameter.numel() for parameter in model.parameters())


def test_size_counts_trainable_parameters_only() -> None:
    model = nn.Linear(1024, 256)
    model.bias.requires_grad_(False)
    assert nominal_size_mb(model) == 1.0 and nominal_size_mb(model, bits=4) == 0.125
    assert trainable_parameters(model) == 1024 * 256


def test_size_rule_gives_the_papers_sizes(shared: Path) -> None:
    # trainable parameters of the official models; the paper prints 126.8 and 225.6 MB, and an eighth of them for W4
    facts = json.loads((shared / "reference" / "bevformer_params.json").read_text())
    for variant, paper in (("tiny", 126.8), ("small", 225.6)):
        trainable = sum(part["trainable"] for part in facts[variant]["parts"].values())
        model = nn.ParameterList([nn.Parameter(torch.empty(trainable, device="meta"))])
        assert nominal_size_mb(model) == pytest.approx(paper, abs=0.05)
        assert nominal_size_mb(model, bits=4) == pytest.approx(paper / 8, abs=0.01)


def mixed_plan(model: nn.Module, *, conv: tuple[int, int], branch: tuple[int, int]) -> Plan:
    exceptions = {"conv": conv, "branch": branch}
    return make_plan(model, parts=PARTS, weight_bits=4, activation_bits=6, exceptions=exceptions)


def test_weights_of_sites_leave_biases_out_and_survive_quantization() -> None:
    model = Toy()
    plan = mixed_plan(model, conv=(4, 6), branch=(4, 6))
    expected = {"conv": 6 * 2 * 9, "attn": 4 * 6 * 6, "branch": 5 * 6}  # in_proj 18 x 6 and out_proj 6 x 6
    assert weights_by_site(model, plan) == expected
    assert weights_by_site(quantize(model, plan), plan) == expected


def test_mean_bits_by_weights_and_by_what_reads_the_inputs() -> None:
    model, macs = lines()
    plan = mixed_plan(model, conv=(2, 8), branch=(8, 6))
    read = {line.path: line.macs for line in macs if line.is_layer}
    found = mean_bits(plan, weights=weights_by_site(model, plan), macs=macs)
    assert found.weights == (108 * 2 + 144 * 4 + 30 * 8) / 282
    assert found.inputs == pytest.approx(6 + 2 * read["conv"] / sum(read.values()))


def test_mixed_size_is_the_papers_rule_where_all_bits_are_alike() -> None:
    model = Toy()
    trainable, same = trainable_parameters(model), mixed_plan(model, conv=(4, 6), branch=(4, 6))
    weights = weights_by_site(model, same)
    assert mixed_size_mb(same, weights=weights, trainable=trainable, bits=4) == nominal_size_mb(model, bits=4)
    plan = mixed_plan(model, conv=(2, 8), branch=(8, 6))
    more = mixed_size_mb(plan, weights=weights, trainable=trainable, bits=4) - nominal_size_mb(model, bits=4)
    assert more == pytest.approx((108 * -2 + 30 * 4) / 8 / 2**20)
