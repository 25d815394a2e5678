"""What layers keep for their backward pass, and that recomputing changes no number."""

from __future__ import annotations

import copy
import weakref
from contextlib import nullcontext
from importlib import import_module

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from qdbev.quantization.layers.grids import InputGrid, WeightGrid
from qdbev.quantization.layers.model_ranges import learn_ranges
from qdbev.quantization.layers.swap import observing, quantize, set_parts
from qdbev.quantization.planning.activation_memory import activation_memory
from qdbev.quantization.planning.policy import make_plan


class Small(nn.Module):
    """Convolutions behind a ReLU that two of them share, a linear layer, an attention."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.left, self.right = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.norm, self.linear = nn.LayerNorm(8), nn.Linear(8, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu_()
        x = (self.left(x) + self.right(x)).flatten(2).transpose(1, 2)
        x = self.linear(self.norm(x))
        out: Tensor = self.attention(x, x, x)[0]
        return out


def small(*, learned: bool, unsigned: bool = True) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    model, x = Small(), torch.randn(2, 3, 8, 8)
    quantize(
        model,
        make_plan(model, parts={"all": [""]}, weight_bits=4, activation_bits=4),
        weights=WeightGrid(follow=False),
        inputs=InputGrid(may_be_unsigned=unsigned),
    )
    with observing(model), torch.no_grad():
        model(x * 0.8)  # so that something is clamped
    set_parts(model, {"all"})
    if learned:
        learn_ranges(model, weights=True, inputs=True)
    return model, x


def gradients(model: nn.Module, x: Tensor, *, autocast: bool = False) -> dict[str, Tensor]:
    model.zero_grad()
    with torch.autocast("cpu", enabled=autocast):
        out = model(x)
    out.float().square().sum().backward()
    grads = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    assert len(grads) == len(list(model.parameters()))
    return {name: value.clone() for name, value in grads.items()} | {"out": out.detach()}


def composed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let quantizers and layers run one after the other from now on."""
    monkeypatch.setattr(import_module("qdbev.quantization.layers.products"), "_roundings", lambda *_: None)


def same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("autocast", [False, True])
def test_gradients_are_those_of_tensors_that_are_kept(
    learned: bool, autocast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x = small(learned=learned)
    ours = gradients(model, x, autocast=autocast)
    composed(monkeypatch)
    for name in ("quantized", "products", "attention"):
        monkeypatch.setattr(import_module(f"qdbev.quantization.layers.{name}"), "recomputing", nullcontext)
    assert same(ours, gradients(model, x, autocast=autocast))


@pytest.mark.parametrize("learned", [False, True])
def test_a_quantized_tensor_that_somebody_else_reads_too(learned: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = small(learned=learned)
    read: list[Tensor] = []
    model.linear.input_quantizer.register_forward_hook(lambda module, inputs, output: read.append(output))

    def once() -> dict[str, Tensor]:
        model.zero_grad()
        (model(x).square().sum() + read.pop().square().sum()).backward()
        return {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}

    ours = once()
    composed(monkeypatch)
    theirs = once()
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], msg=name)


def test_a_pass_for_the_weights_alone_leaves_the_next_one_as_it_was() -> None:
    model, x = small(learned=True)
    theirs = gradients(model, x)
    model.zero_grad()
    out = model(x)
    loss = out.square().sum()
    (first,) = torch.autograd.grad(loss, [model.linear.weight], retain_graph=True)
    loss.backward()
    assert torch.equal(first, theirs["linear.weight"])
    ours = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    assert same(ours | {"out": out.detach()}, theirs)


@pytest.mark.parametrize("learned", [False, True])
def test_a_gradient_of_a_gradient(learned: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = small(learned=learned)
    model, x = model.double(), x.double()  # gradients that cancel leave their rounding

    def once() -> list[Tensor]:
        wanted = list(model.parameters())
        first = torch.autograd.grad(model(x).square().sum(), wanted, create_graph=True)
        total = torch.stack([grad.square().sum() for grad in first]).sum()
        return [*first, *torch.autograd.grad(total, wanted, allow_unused=True, materialize_grads=True)]

    ours = once()
    composed(monkeypatch)
    for mine, theirs in zip(ours, once(), strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("learned", [False, True])
def test_checkpointing_changes_nothing(learned: bool) -> None:
    model, x = small(learned=learned)
    plain = gradients(model, x)

    class Checkpointed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = checkpoint(model, x, use_reentrant=False)
            return out

    wrapped = Checkpointed()
    wrapped.model = model
    assert same(plain, {name.removeprefix("model."): value for name, value in gradients(wrapped, x).items()})


@pytest.mark.parametrize("learned", [False, True])
def test_convolutions_keep_what_float_ones_keep(learned: bool) -> None:
    def chain() -> nn.Module:
        layers = [nn.Conv2d(4, 4, 3, padding=1) if place % 2 else nn.ReLU(inplace=True) for place in range(8)]
        return nn.Sequential(nn.Conv2d(3, 4, 1), *layers)

    def saved_bytes(model: nn.Module) -> int:
        return activation_memory(model, lambda: model(torch.ones(1, 3, 64, 64))).kept_bytes

    model = chain()
    plain = saved_bytes(model)
    quantize(
        model, make_plan(model, parts={"all": [""]}, weight_bits=4, activation_bits=4), weights=WeightGrid(follow=False)
    )
    with observing(model), torch.no_grad():
        model(torch.ones(1, 3, 64, 64))
    set_parts(model, {"all"})
    if learned:
        learn_ranges(model, weights=True, inputs=True)
    read = 64 * 64 * (3 + 4 * 4)  # elements that pass an input quantizer
    assert 8 * (saved_bytes(model) - plain) / read < 0.1


def test_what_is_changed_in_place_is_refused() -> None:
    model = nn.Sequential(nn.ReLU(), nn.Linear(6, 6))
    quantize(
        model, make_plan(model, parts={"all": [""]}, weight_bits=4, activation_bits=4), weights=WeightGrid(follow=False)
    )
    with observing(model):
        model(torch.ones(2, 6))
    set_parts(model, {"all"})
    for needs_gradient in (True, False):
        x = torch.rand(2, 6).requires_grad_(needs_gradient)
        read = model[0](x)
        out = model[1](read)
        with torch.no_grad():
            read.add_(1)
        with pytest.raises(RuntimeError, match=r"modified (in place|by an inplace)"):
            out.sum().backward()


def test_a_moving_scale_does_not_disturb_an_earlier_pass() -> None:
    model, x = small(learned=False)
    once = gradients(model, x)
    other = copy.deepcopy(model)
    other.zero_grad()
    out = other(x)
    moved = other.linear.input_quantizer
    moved.scale = moved.scale * 2  # type: ignore[union-attr, operator]
    out.square().sum().backward()
    assert same(once, {name: value.grad for name, value in other.named_parameters()} | {"out": out.detach()})  # type: ignore[dict-item]


def test_nothing_lives_on_after_backward() -> None:
    model, x = small(learned=False)
    out = model(x)
    gone = weakref.ref(out)
    out.sum().backward()
    del out
    assert gone() is None
    memory = activation_memory(model, lambda: gradients(model, x) and None)
    weights = sum(value.numel() * 4 for value in model.parameters())
    assert memory.kept_bytes <= 3 * weights
