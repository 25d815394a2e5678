"""Bit plans: the integer program against trying everything, what cannot be kept, and bits put into a plan."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from itertools import product
from math import inf, isclose

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from qdbev.quantization import make_plan, packed_bytes
from qdbev.quantization.planning.bit_plan import (
    RESOURCES,
    BitPlan,
    Option,
    Problem,
    choose_bits,
    front,
    total_loss,
    with_bits,
)

losses = st.floats(min_value=0.0, max_value=1e3, allow_nan=False, width=32)
counts = st.integers(min_value=1, max_value=10**7)


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """Up to five layers, each with up to five options; costs of real layers or arbitrary ones."""
    options = {}
    for number in range(draw(st.integers(1, 5))):
        weights, macs = draw(counts), draw(counts)
        pairs = draw(
            st.lists(st.tuples(st.sampled_from([2, 3, 4, 8]), st.sampled_from([4, 8])), min_size=1, max_size=5)
        )
        options[f"layer{number}"] = [
            Option(
                weight_bits=w,
                activation_bits=a,
                loss=draw(losses),
                size=w * weights,
                bops=w * a * macs,
                bytes=packed_bytes(weights, bits=w),
                latency=draw(counts),  # measured: more bits need not take longer
            )
            for w, a in pairs
        ]
    whole = {name: 4 * sum(max(one.cost(name) for one in each) for each in options.values()) for name in RESOURCES}
    return Problem(options=options, fixed=dict.fromkeys(RESOURCES, 0) | {"size": draw(counts)}, whole=whole)


def tried(problem: Problem, budgets: dict) -> float:
    """The least loss of all combinations that keep the budgets, infinity where none does."""
    best = inf
    for each in product(*problem.options.values()):
        chosen = dict(zip(problem.options, each, strict=True))
        if all(problem.share(chosen, resource=name) <= share for name, share in budgets.items()):
            best = min(best, total_loss(chosen))
    return best


@settings(max_examples=150)
@given(problems(), st.floats(0.02, 0.6), st.floats(0.02, 0.6) | st.none())
def test_the_program_finds_the_best_of_all_combinations(problem: Problem, size: float, bops: float | None) -> None:
    budgets = {"size": round(size, 4)} | ({} if bops is None else {"bops": round(bops, 4)})
    expected = tried(problem, budgets)
    if expected == inf:
        with pytest.raises(ValueError, match="float"):
            choose_bits(problem, budgets=budgets)
        return
    chosen = choose_bits(problem, budgets=budgets)
    assert all(problem.share(chosen, resource=name) <= share for name, share in budgets.items())
    assert isclose(total_loss(chosen), expected, rel_tol=1e-6, abs_tol=1e-6)
    assert choose_bits(problem, budgets=budgets) == chosen


@settings(max_examples=100)
@given(problems(), st.floats(0.05, 0.6), st.floats(0.05, 0.3))
def test_bytes_are_kept_to_the_byte_beside_a_latency(problem: Problem, amount: float, latency: float) -> None:
    limit = round(amount * problem.whole["bytes"])
    budgets: dict = {"bytes": Fraction(limit, problem.whole["bytes"]), "latency": round(latency, 4)}
    expected = tried(problem, budgets)
    if expected == inf:
        with pytest.raises(ValueError, match=f"bytes={limit}|latency="):
            choose_bits(problem, budgets=budgets)
        return
    chosen = choose_bits(problem, budgets=budgets)
    assert problem.cost(chosen, resource="bytes") <= limit
    assert problem.share(chosen, resource="latency") <= budgets["latency"]
    assert isclose(total_loss(chosen), expected, rel_tol=1e-6, abs_tol=1e-6)


def test_a_budget_of_bytes_that_cannot_be_kept_says_which_can() -> None:
    sizes = {"sensitive": 50, "robust": 25}
    options = {path: [replace(one, bytes=sizes[path]) for one in each] for path, each in PROBLEM.options.items()}
    problem = Problem(options=options, fixed={"bytes": 10}, whole={"bytes": 800})
    with pytest.raises(ValueError, match=r"bytes=84 cannot be kept.*takes 85; give that or more"):
        choose_bits(problem, budgets={"bytes": Fraction(84, 800)})
    assert choose_bits(problem, budgets={"bytes": Fraction(85, 800)})


def test_a_front_leaves_out_what_another_budget_forbids() -> None:
    """Two bits are slow here: the smallest sizes keep no latency."""
    options = [
        Option(weight_bits=2, activation_bits=8, loss=4.0, size=2, bops=0, latency=9),
        Option(weight_bits=4, activation_bits=8, loss=1.0, size=4, bops=0, latency=3),
        Option(weight_bits=8, activation_bits=8, loss=0.0, size=8, bops=0, latency=5),
    ]
    problem = Problem(options={"a": options}, fixed={"size": 0, "latency": 0}, whole={"size": 32, "latency": 10})
    points = front(problem, over="size", budgets={"size": 0.25, "latency": 0.5})
    assert [bits_of(one)["a"] for one in points] == [4, 8]


def ladder(*, loss: float, weights: int = 100) -> list[Option]:
    """Options of a layer whose loss falls by a quarter with each bit."""
    return [
        Option(weight_bits=bits, activation_bits=8, loss=loss / 4**bits, size=bits * weights, bops=bits * 8 * weights)
        for bits in (2, 3, 4, 6, 8)
    ]


PROBLEM = Problem(
    options={"sensitive": ladder(loss=160.0), "robust": ladder(loss=1.0)},
    fixed={"size": 0, "bops": 0},
    whole={"size": 6400, "bops": 204800},
)


def bits_of(chosen: BitPlan) -> dict[str, int]:
    return {path: option.weight_bits for path, option in chosen.items()}


def test_at_the_size_of_four_bits_the_sensitive_layer_takes_from_the_robust_one() -> None:
    chosen = choose_bits(PROBLEM, budgets={"size": 0.125})
    assert bits_of(chosen) == {"sensitive": 6, "robust": 2}  # 8 bits together, as 4 and 4
    assert problem_loss(4) == 160 / 256 + 1 / 256 and total_loss(chosen) == 160 / 4**6 + 1 / 16


def problem_loss(bits: int) -> float:
    return sum(next(one.loss for one in each if one.weight_bits == bits) for each in PROBLEM.options.values())


def test_a_budget_that_cannot_be_kept_says_what_can() -> None:
    with pytest.raises(ValueError, match=r"size=0\.06 cannot be kept.*takes 0\.0625 of the float one; give 0\.0625"):
        choose_bits(PROBLEM, budgets={"size": 0.06})
    assert bits_of(choose_bits(PROBLEM, budgets={"size": 0.0625})) == {"sensitive": 2, "robust": 2}


def test_two_budgets_that_only_exclude_each_other() -> None:
    options = [
        Option(weight_bits=2, activation_bits=8, loss=1.0, size=1, bops=9),
        Option(weight_bits=8, activation_bits=2, loss=1.0, size=9, bops=1),
    ]
    problem = Problem(options={"a": options}, fixed={"size": 0, "bops": 0}, whole={"size": 10, "bops": 10})
    with pytest.raises(ValueError, match=r"keeps size=0\.5 and bops=0\.5 together"):
        choose_bits(problem, budgets={"size": 0.5, "bops": 0.5})


def test_without_a_budget_every_layer_takes_its_least_loss() -> None:
    assert bits_of(choose_bits(PROBLEM, budgets={})) == {"sensitive": 8, "robust": 8}


def test_a_loss_that_is_no_number_is_refused() -> None:
    broken = Problem(options={"a": ladder(loss=inf)}, fixed=PROBLEM.fixed, whole=PROBLEM.whole)
    with pytest.raises(ValueError, match="not finite"):
        choose_bits(broken, budgets={})


def test_the_front_costs_more_and_loses_less_from_point_to_point() -> None:
    points = front(PROBLEM, over="size", budgets={}, points=13)
    costs = [PROBLEM.share(one, resource="size") for one in points]
    errors = [total_loss(one) for one in points]
    assert costs == sorted(set(costs)) and errors == sorted(set(errors), reverse=True)
    assert bits_of(points[-1]) == {"sensitive": 8, "robust": 8} and len(points) > 5


def small() -> nn.Module:
    return nn.ModuleDict({"first": nn.Linear(2, 3), "table": nn.Embedding(4, 2), "norm": nn.LayerNorm(3)})


def plan_of(model: nn.Module):
    return make_plan(model, parts={"all": [""]}, weight_bits=4, activation_bits=6)


def test_bits_are_put_into_a_plan_and_float_stays_float() -> None:
    plan = with_bits(plan_of(small()), {"first": (3, 8), "table": (2, 8)})
    assert [(site.path, site.weight_bits, site.activation_bits) for site in plan] == [
        ("first", 3, 8),
        ("table", 2, 32),
        ("norm", 32, 32),
    ]
    assert [site.reason for site in plan] == [site.reason for site in plan_of(small())]


@pytest.mark.parametrize(
    ("bits", "sentence"),
    [
        ({"first": (3, 8)}, r"has no bits for table, which this model quantizes \(1 such"),
        ({"first": (3, 8), "table": (2, 8), "other": (4, 4)}, "gives bits to other, which is no quantized layer here"),
        ({"first": (3, 8), "table": (2, 8), "norm": (4, 4)}, "gives bits to norm"),
    ],
)
def test_bits_for_another_model_are_refused_by_the_first_layer(bits: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        with_bits(plan_of(small()), bits)
