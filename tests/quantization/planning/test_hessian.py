"""Hutchinson's traces against exact Hessians."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, hessian

from qdbev.quantization.planning.hessian import hutchinson_traces


class Toy(nn.Module):
    """Two layers with a smooth activation between them, in float64."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x)))


def toy() -> tuple[Toy, Tensor, Tensor]:
    torch.manual_seed(3)
    network, x = Toy().double(), torch.randn(64, 4, dtype=torch.float64)
    return network, x, torch.randn(64, 2, dtype=torch.float64)


def traces_of(loss: Callable[[], Tensor], weights: dict[str, Tensor], **settings: Any) -> dict[str, float]:
    return hutchinson_traces(lambda: torch.autograd.grad(loss(), list(weights.values())), weights, **settings)


def exact_traces(network: nn.Module, x: Tensor, target: Tensor, names: list[str]) -> dict[str, float]:
    """The diagonal blocks of the whole Hessian, by torch.func."""
    weights = {name: network.get_parameter(name).detach() for name in names}

    def loss(moved: dict[str, Tensor]) -> Tensor:
        return nn.functional.mse_loss(functional_call(network, moved, (x,)), target)

    blocks: Any = hessian(loss)(weights)
    return {
        name: float(blocks[name][name].detach().reshape(weights[name].numel(), -1).diagonal().sum()) for name in names
    }


def test_estimated_traces_are_those_of_the_exact_hessian() -> None:
    network, x, target = toy()
    names = ["first.weight", "second.weight"]
    before = {name: value.clone() for name, value in network.state_dict().items()}
    exact = exact_traces(network, x, target, names)
    weights = {name: network.get_parameter(name) for name in names}
    found = traces_of(lambda: nn.functional.mse_loss(network(x), target), weights, probes=3000, relative_step=1e-3)
    for name in names:
        assert found[name] == pytest.approx(exact[name], rel=0.05)
    assert exact["second.weight"] > 2 * exact["first.weight"] > 0
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_one_probe_is_exact_where_the_hessian_is_diagonal() -> None:
    """loss = 3 a^2 + sum 0.5 k b_k^2: traces 6 n and 0 + 1 + 2 + 3, whatever the signs."""
    a = torch.full((4,), 0.7, dtype=torch.float64, requires_grad=True)
    b = torch.tensor([5.0, -1.0, 0.1, 2.0], dtype=torch.float64, requires_grad=True)
    factors = torch.arange(4)
    found = traces_of(
        lambda: 3 * a.square().sum() + 0.5 * (factors * b.square()).sum(), {"a": a, "b": b}, probes=1, seed=5
    )
    assert found == pytest.approx({"a": 24.0, "b": 6.0}, rel=1e-9)


def test_a_weight_of_zeros_has_a_trace_too() -> None:
    a = torch.zeros(3, requires_grad=True)
    assert traces_of(lambda: a.square().sum(), {"a": a}, probes=1)["a"] == pytest.approx(6.0, rel=1e-4)


def test_seed_decides_the_probes() -> None:
    network, x, target = toy()
    weights = {"first.weight": network.first.weight}

    def traces(seed: int) -> dict[str, float]:
        return traces_of(lambda: nn.functional.mse_loss(network(x), target), weights, probes=2, seed=seed)

    assert traces(1) == traces(1) != traces(2)


def test_no_probes_are_refused() -> None:
    with pytest.raises(ValueError, match="probes is 0, expected 1 or more"):
        hutchinson_traces(lambda: [], {}, probes=0)
