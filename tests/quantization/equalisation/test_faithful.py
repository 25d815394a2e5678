"""Rewrites are compared, not trusted: what is wrong is named, what rounding does is not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from qdbev.quantization import CheckedRun, equalise, find_connections, fold_batchnorm, make_plan, quantize


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8)]
    model = nn.Sequential(*layers, nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(8 * 4 * 4, 4))
    for norm in (model[1], model[4]):
        norm.running_mean.uniform_(-1, 1)
        norm.running_var.uniform_(0.5, 2)
    return model.eval()


def checked(model: nn.Module) -> CheckedRun:
    image = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    return CheckedRun(model, lambda: model(image))


@torch.no_grad()
def test_folding_equalisation_and_conversion_keep_the_outputs_and_say_by_how_much() -> None:
    model = network()
    example = checked(model)
    folding = fold_batchnorm(model, example)
    example.rewritten("folding", changed=folding.changed)
    connections = find_connections(model, example)
    equalise(model, connections.pairs)
    example.rewritten("equalisation", changed=connections.changed_by(connections.pairs))
    example()
    quantize(model, make_plan(model, parts={"all": [""]}, weight_bits=4, activation_bits=6))
    example.rewritten("conversion")
    example()
    assert list(example.differences) == ["folding", "equalisation", "conversion"]
    assert 0 < example.differences["folding"] < 1e-5 and 0 < example.differences["equalisation"] < 1e-5
    assert example.differences["conversion"] == 0.0
    assert example.sentence().startswith("outputs differ by a share of their spread: folding ")
    assert example.sentence().endswith(", conversion 0")
    assert not any(module._forward_hooks for module in model.modules())


def _weight(model: nn.Sequential) -> None:
    model[3].weight.mul_(1.01)


def _channel(model: nn.Sequential) -> None:
    model[3].bias[5] += 0.1


def _last(model: nn.Sequential) -> None:
    model[7].weight[0].neg_()


def _not_a_number(model: nn.Sequential) -> None:
    model[0].weight[0] = float("nan")


@torch.no_grad()
@pytest.mark.parametrize(("wrong", "layer"), [(_weight, "3"), (_channel, "3"), (_last, "7"), (_not_a_number, "0")])
def test_a_wrong_rewrite_is_an_error_that_names_the_layer(wrong: Callable[[nn.Module], None], layer: str) -> None:
    model = network()
    example = checked(model)
    example()
    wrong(model)
    example.rewritten("smoothing")
    with pytest.raises(
        ValueError, match=rf"smoothing changed what the network computes: the output of {layer} differs"
    ):
        example()


def test_a_network_that_does_not_run_any_more_is_an_error_that_says_why() -> None:
    class Asks(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = super().forward(x)
            return result.view(-1, self[1].num_features)

    model = Asks(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval()
    example = checked(model)
    example.rewritten("folding", changed=fold_batchnorm(model, example).changed)
    with pytest.raises(ValueError, match=r"folding left a network that does not run \(AttributeError: .*num_features"):
        example()


class Chaos(nn.Module):
    """Doubles what is wrong thirty times: what rounding allows is everything."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x).sigmoid()
        for _ in range(30):
            y = (2 * y).remainder(0.9999)
        return y


@torch.no_grad()
def test_a_chaotic_network_may_differ_by_what_rounding_does_to_it_and_no_layer_before_by_more() -> None:
    torch.manual_seed(0)
    model, x = Chaos().eval(), torch.randn(64, 4)
    example = CheckedRun(model, lambda: model(x))
    example()
    model.first.weight.mul_(1 + 2e-7)
    example.rewritten("equalisation")
    example()
    assert example.differences["equalisation"] > 0.1
    model.first.weight.mul_(1.01)
    example.rewritten("equalisation")
    with pytest.raises(ValueError, match="the output of first differs"):
        example()


class Drawing(nn.Module):
    """Draws at random in prediction too."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> dict[str, list[Tensor]]:
        return {"outputs": [self.layer(x + torch.rand_like(x))]}


@torch.no_grad()
def test_what_a_network_draws_is_the_same_before_and_after_and_leaves_no_trace() -> None:
    model, x = Drawing().eval(), torch.zeros(2, 4)
    example = CheckedRun(model, lambda: model(x))
    state = torch.get_rng_state()
    example()
    example.rewritten("nothing")
    example()
    assert example.differences == {"nothing": 0.0} and torch.equal(torch.get_rng_state(), state)


@torch.no_grad()
def test_constant_empty_and_infinite_outputs_are_compared_too() -> None:
    model = nn.ModuleDict({"constant": nn.Linear(3, 1), "empty": nn.Linear(3, 2), "infinite": nn.Linear(3, 1)}).eval()
    model["constant"].weight.zero_()
    model["infinite"].bias.fill_(float("inf"))
    inputs = {"constant": torch.zeros(5, 3), "empty": torch.zeros(0, 3), "infinite": torch.zeros(1, 3)}
    example = CheckedRun(model, lambda: [model[name](x) for name, x in inputs.items()])
    example()
    example.rewritten("nothing")
    example()
    assert example.differences == {"nothing": 0.0}
    model["constant"].bias += 0.01
    example.rewritten("something")
    with pytest.raises(ValueError, match="the output of constant differs"):
        example()


@torch.no_grad()
def test_what_is_not_exact_is_told_and_refused_only_where_it_breaks() -> None:
    model = network()
    example = checked(model)
    example()
    _weight(model)
    example.rewritten("rounding", exact=False)
    example()
    assert 0.005 < example.differences["rounding"] < 0.1
    _not_a_number(model)
    example.rewritten("rounding", exact=False)
    with pytest.raises(ValueError, match="rounding made the output of 0 infinite or no number"):
        example()
