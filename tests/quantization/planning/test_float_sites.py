"""Layers that stay in float by choice, because prediction does not run them, or with those that hold their weight."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qdbev.quantization import Plan, WatchedCalls, make_plan, observing, quantize, ranges_missing, set_sites

Bits = tuple[int, int]


def plan_of(model: nn.Module, **options: object) -> Plan:
    return make_plan(model, parts={"all": [""]}, weight_bits=4, activation_bits=6, **options)  # type: ignore[arg-type]


class Auxiliary(nn.Module):
    """What prediction runs, and what only training does, as AuxHead."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 4, 1), nn.Linear(4, 2)
        self.aux, self.denoising = nn.Conv2d(4, 1, 1), nn.Embedding(5, 4)
        self.teacher = nn.MultiheadAttention(4, 2)
        self.depth = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stem(x).mean((2, 3)))


class ByFunction(nn.Module):
    """Reads weights past the calls of their layers: all of one, part of another, an embedding's by right."""

    def __init__(self) -> None:
        super().__init__()
        self.called, self.both, self.read = (nn.Linear(4, 4) for _ in range(3))
        self.table, self.attention = nn.Embedding(6, 4), nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.both(self.called(x)) + F.linear(x, self.both.weight.abs()) + F.linear(x, self.read.weight)
        return self.attention(y, y, y)[0] @ self.table.weight.t()


def reasons(model: nn.Module, *shape: int) -> dict[str, str]:
    calls = WatchedCalls(model.eval(), lambda: model(torch.randn(*shape)))
    with torch.no_grad():
        calls()
    return calls.reasons()


def test_what_prediction_does_not_run_stays_in_float_with_that_reason() -> None:
    model = Auxiliary()
    unrun = reasons(model, 2, 3, 5, 5)
    assert set(unrun) == {"aux", "denoising", "teacher", "depth.0", "depth.2"}
    plan = plan_of(model, unrun=unrun)
    assert {site.path for site in plan.quantized} == {"stem", "head"}
    assert all(plan.site(path).reason == "prediction does not run it" for path in unrun)
    quantize(model, plan)
    with observing(model):
        model(torch.randn(2, 3, 5, 5))
    assert ranges_missing(model) == []


def test_weights_that_a_function_reads_stay_in_float_with_that_reason() -> None:
    unrun = reasons(ByFunction(), 2, 3, 4)
    reason = "prediction reads its parameters by a function, past the layer's call"
    assert unrun == {"both": reason, "read": reason}


@pytest.mark.parametrize(
    ("patterns", "paths"),
    [(("stem",), {"stem"}), (("depth.*",), {"depth.0", "depth.2"}), (("a*", "head"), {"aux", "head"})],
)
def test_layers_named_by_patterns_stay_in_float(patterns: tuple[str, ...], paths: set[str]) -> None:
    plan = plan_of(Auxiliary(), float_layers=patterns)
    assert {site.path for site in plan if site.kind != "float" and not site.quantized} == paths
    assert all("of float_layers" in plan.site(path).reason for path in paths)


@pytest.mark.parametrize(
    ("pattern", "hint"),
    [
        ("sten", "did you mean stem"),
        ("depth.1.*", "did you mean depth.2, depth.0"),
        ("????????????", "layers are stem, head"),
    ],
)
def test_a_pattern_of_no_layer_is_refused_with_near_names(pattern: str, hint: str) -> None:
    with pytest.raises(ValueError, match=r"float_layers names .*, which matches no layer; ") as refused:
        plan_of(Auxiliary(), float_layers=(pattern,))
    assert hint in str(refused.value)


class Tied(nn.Module):
    """Two layers and a table that hold one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.between, self.last = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.table = nn.Embedding(4, 4)
        self.last.weight = self.table.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.between(self.first(x))) + self.table(torch.arange(4))


@pytest.mark.parametrize(
    ("options", "bits"),
    [
        ({}, {"first": (4, 6), "last": (4, 6), "table": (4, 32), "between": (4, 6)}),
        ({"exceptions": {"last": (8, 8)}}, {"first": (8, 6), "last": (8, 8), "table": (8, 32), "between": (4, 6)}),
        ({"embedding": "float"}, {"first": (32, 32), "last": (32, 32), "table": (32, 32), "between": (4, 6)}),
        ({"float_layers": ("first",)}, {"first": (32, 32), "last": (32, 32), "table": (32, 32), "between": (4, 6)}),
        ({"unrun": {"table": "not run"}}, {"first": (4, 6), "last": (4, 6), "table": (32, 32), "between": (4, 6)}),
    ],
)
def test_layers_that_hold_one_weight_are_treated_alike(options: dict[str, object], bits: dict[str, Bits]) -> None:
    plan = plan_of(Tied(), **options)
    assert {site.path: (site.weight_bits, site.activation_bits) for site in plan} == bits


def test_one_weight_has_one_quantizer_and_is_on_where_one_of_its_layers_is() -> None:
    torch.manual_seed(0)
    model = Tied().eval()
    quantize(model, plan_of(model))
    assert model.first.weight_quantizer is model.last.weight_quantizer is model.table.weight_quantizer
    assert model.first.input_quantizer is not model.last.input_quantizer
    with observing(model):
        model(torch.randn(4, 4))
    for path in ("first", "last"):
        set_sites(model, [path])
        assert model.first.weight_quantizer.state == "on"  # type: ignore[union-attr]


def replaced(module: nn.Module) -> nn.Module:
    module.forward = module.forward  # type: ignore[method-assign]
    return module


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)),
        lambda: nn.utils.parametrizations.orthogonal(nn.Linear(4, 4)),
        lambda: nn.utils.parametrizations.spectral_norm(nn.Embedding(4, 4)),
        lambda: nn.utils.parametrizations.spectral_norm(nn.MultiheadAttention(4, 2), "in_proj_weight"),
        lambda: nn.utils.spectral_norm(nn.Conv2d(4, 4, 1)),
        lambda: replaced(nn.Conv2d(4, 4, 1)),
        lambda: replaced(nn.MultiheadAttention(4, 2)),
        lambda: type("Own", (nn.MultiheadAttention,), {"forward": lambda self, x: x})(4, 2),
    ],
)
def test_what_computes_otherwise_than_its_class_stays_in_float(make: Callable[[], nn.Module]) -> None:
    assert plan_of(nn.ModuleDict({"layer": make()})).quantized == ()
