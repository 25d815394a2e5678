"""A ReLU that leaves its backward pass to the layer behind it: the same numbers, and only where that alone reads it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qdbev.quantization.grid.rectifier import QuantReLU, _Rectified
from qdbev.quantization.layers.grids import InputGrid, WeightGrid
from qdbev.quantization.layers.model_ranges import learn_ranges
from qdbev.quantization.layers.swap import observing, quantize, set_parts
from qdbev.quantization.planning.policy import make_plan


class Network(nn.Module):
    """Two convolutions with a ReLU between, and what else is done with the ReLU's output."""

    def __init__(self, *, in_place: bool, others: Callable[[Tensor], Tensor | None], first: bool) -> None:
        super().__init__()
        self.inner, self.outer = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1)
        self.relu = nn.ReLU(inplace=in_place)
        self.others, self.first = others, first

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.inner(x))
        beside = self.others(y) if self.first else None
        out: Tensor = self.outer(y).square().sum()
        beside = beside if self.first else self.others(y)
        return out if beside is None else out + beside.sum()


def nobody(y: Tensor) -> None:
    return None


def a_hook(y: Tensor) -> None:
    if y.requires_grad:
        y.register_hook(lambda gradient: gradient.add_(1.0))  # also where the ReLU stops it


def a_reader(y: Tensor) -> Tensor:
    return y * torch.linspace(-1, 1, y.numel()).view(y.shape)


def quantized(*, unsigned: bool = True, **choices: Any) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    model, x = Network(**choices), torch.randn(2, 3, 6, 6)
    return on(model, x * 0.7, unsigned=unsigned), x


def on(model: nn.Module, x: Tensor | None = None, *, unsigned: bool = True) -> nn.Module:
    """Quantized, with ranges of this input that are learned."""
    plan = make_plan(model, parts={"all": [""]}, weight_bits=4, activation_bits=4)
    quantize(model, plan, weights=WeightGrid(follow=False), inputs=InputGrid(may_be_unsigned=unsigned))
    with observing(model), torch.no_grad():
        model(torch.randn(64, 4) if x is None else x)
    set_parts(model, {"all"})
    learn_ranges(model, weights=True, inputs=True)
    return model


def gradients(model: nn.Module, x: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(model(x), list(model.parameters())))


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For every backward pass of a ReLU whether it was left to the layer behind."""
    seen, backward = [], _Rectified.backward

    def watched(ctx: object, gradient: Tensor) -> tuple[Tensor, None]:
        grads = backward(ctx, gradient)
        seen.append(grads[0] is gradient)
        return grads

    monkeypatch.setattr(_Rectified, "backward", staticmethod(watched))
    return seen


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize(("others", "unsigned", "is_left"), [
    (nobody, True, True), (a_reader, True, False), (a_hook, True, False), (nobody, False, False)
])  # fmt: skip
def test_gradients_are_those_of_torch(
    in_place: bool,
    first: bool,
    others: Callable[[Tensor], Tensor | None],
    unsigned: bool,
    is_left: bool,
    left: list[bool],
) -> None:
    model, x = quantized(unsigned=unsigned, in_place=in_place, others=others, first=first)
    assert type(model.relu) is QuantReLU
    ours = gradients(model, x)
    assert left == [is_left]
    model.relu.__class__ = nn.ReLU
    for grad, other in zip(ours, gradients(model, x), strict=True):
        assert torch.equal(grad, other)
    assert left == [is_left]


def test_a_zero_that_the_quantizer_would_pass_stops_in_the_relu(left: list[bool]) -> None:
    model, x = quantized(in_place=False, others=nobody, first=False)
    with torch.no_grad():
        model.inner.weight.zero_()
        model.inner.bias.zero_()  # every input of the ReLU is zero, where the quantizer lets gradients through
    bias = torch.autograd.grad(model(x), model.inner.bias)[0]
    assert left == [True] and torch.equal(bias, torch.zeros(8))


def test_a_gradient_of_a_gradient() -> None:
    model, x = quantized(in_place=False, others=nobody, first=False)

    def twice() -> Tensor:
        (slope,) = torch.autograd.grad(model(x), model.outer.bias, create_graph=True)
        return torch.autograd.grad(slope.sum(), model.inner.weight)[0]

    ours = twice()
    model.relu.__class__ = nn.ReLU
    assert torch.equal(ours, twice()) and bool(ours.any())


def test_a_view_is_rectified_in_place() -> None:
    relu = QuantReLU(inplace=True)
    x = torch.tensor([[-1.0, 2.0], [3.0, -4.0]], requires_grad=True)
    whole = x * 1.0
    (relu(whole[0]).sum() + whole.square().sum()).backward()
    assert whole.tolist() == [[0.0, 2.0], [3.0, -4.0]]
    assert x.grad is not None and x.grad.tolist() == [[0.0, 5.0], [6.0, -8.0]]


class Residual(nn.Module):
    """``relu(relu(a) + b)`` before a layer: the gradient passes both ReLUs as one and the same tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.relu = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(8, 2), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.b(x)
        y += self.relu(self.a(x))
        out: Tensor = self.c(self.relu(y)).square().sum()
        return out


def test_only_the_nearest_relu_leaves_its_pass(left: list[bool]) -> None:
    torch.manual_seed(0)
    model, x = on(Residual()), torch.randn(64, 4)
    ours = gradients(model, x)
    assert left == [True, False]
    model.relu.__class__ = nn.ReLU
    assert all(torch.equal(grad, other) for grad, other in zip(ours, gradients(model, x), strict=True))


def test_backward_in_inference_mode() -> None:
    model, x = quantized(in_place=False, others=nobody, first=False)
    loss, expected = model(x), gradients(model, x)
    with torch.inference_mode():
        loss.backward()
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        assert parameter.grad is not None and torch.equal(parameter.grad, gradient)


def test_subnormals_pass() -> None:
    model = on(nn.Sequential(nn.ReLU(), nn.Linear(4, 3)), torch.rand(8, 4))
    x = torch.tensor([[1e-40, 1e-42, 0.5, 0.0]], requires_grad=True)
    ours = torch.autograd.grad(model(x).sum(), x)[0]
    model[0].__class__ = nn.ReLU
    assert torch.equal(ours, torch.autograd.grad(model(x).sum(), x)[0])
    assert bool(ours[0, :3].all()) and ours[0, 3] == 0


def test_a_changed_output_is_noticed() -> None:
    model, z = on(nn.Sequential(nn.ReLU(), nn.Linear(4, 3)), torch.rand(8, 4)), torch.randn(8, 4, requires_grad=True)
    y = model[0](z)
    with torch.no_grad():
        y.sub_(0.3)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        model[1](y).sum().backward()
