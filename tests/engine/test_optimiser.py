"""AdamW by parts: groups, rates, frozen parameters, and moments that go through tensors and back."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from qdbev.engine.optimiser import (
    OptimiserSettings,
    build_optimiser,
    load_optimiser_tensors,
    optimiser_tensors,
    part_multiplier,
    set_learning_rate,
)


def _model():
    torch.manual_seed(0)
    return nn.ModuleDict({"img_backbone": nn.Linear(3, 2), "img_neck": nn.Linear(2, 2), "head": nn.Linear(2, 1)})


def _descend(model, optimiser, steps):
    for step in steps:
        inputs = torch.randn(4, 3, generator=torch.Generator().manual_seed(step))
        model["head"](model["img_neck"](model["img_backbone"](inputs))).square().mean().backward()
        optimiser.step()
        optimiser.zero_grad()


def _weights(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def test_longest_prefix_holds():
    multipliers = {"img_backbone": 0.1, "img_backbone.layer4": 0.5, "head": 2.0}
    names = ["img_backbone.conv1.weight", "img_backbone.layer4.0.weight", "head.bias", "heads.bias", "img_backbone"]
    assert [part_multiplier(name, part_multipliers=multipliers) for name in names] == [0.1, 0.5, 2.0, 1.0, 0.1]


def test_each_part_moves_by_its_own_rate():
    """Adam's first step is the rate times the gradient's sign, and decay takes rate times decay of the weight."""
    model = _model()
    before = _weights(model)
    settings = OptimiserSettings(
        learning_rate=1e-2,
        weight_decay=0.1,
        part_multipliers={"img_backbone": 0.1},
        undecayed=("*.bias",),
        epsilon=1e-20,
    )
    _descend(model, build_optimiser(model, settings=settings), range(1))
    for name, weight in _weights(model).items():
        rate = 1e-3 if name.startswith("img_backbone") else 1e-2
        decay = 0.0 if name.endswith("bias") else 0.1
        torch.testing.assert_close((weight - before[name] * (1 - rate * decay)).abs(), torch.full_like(weight, rate))


def test_the_last_word_of_a_name_comes_before_its_prefix():
    settings = OptimiserSettings(part_multipliers={"img_backbone": 0.1}, leaf_multipliers={"bias": 5.0})
    rates = {
        group["names"][0]: group["multiplier"] for group in build_optimiser(_model(), settings=settings).param_groups
    }
    assert rates == {"img_backbone.weight": 0.1, "img_backbone.bias": 5.0, "img_neck.weight": 1.0}


def test_a_factor_of_zero_freezes():
    """Its tensors get no gradient, whatever the last word of their name; the rest trains."""
    model = _model()
    settings = OptimiserSettings(part_multipliers={"img_backbone": 0.0}, leaf_multipliers={"bias": 5.0})
    optimiser = build_optimiser(model, settings=settings)
    names = [name for group in optimiser.param_groups for name in group["names"]]
    assert not any(name.startswith("img_backbone") for name in names) and "img_neck.bias" in names
    before = _weights(model)
    _descend(model, optimiser, range(2))
    moved = {name for name, weight in _weights(model).items() if not torch.equal(weight, before[name])}
    assert moved == set(names)
    assert model["img_backbone"].weight.grad is None


def test_set_learning_rate_keeps_the_parts_apart():
    optimiser = build_optimiser(_model(), settings=OptimiserSettings(part_multipliers={"img_neck": 0.5}))
    set_learning_rate(optimiser, learning_rate=0.2)
    assert sorted((group["names"][0], group["lr"]) for group in optimiser.param_groups) == [
        ("img_backbone.weight", 0.2),
        ("img_neck.weight", 0.1),
    ]


def test_frozen_parameters_are_left_out():
    model = _model()
    model["img_neck"].requires_grad_(False)
    names = [
        name for group in build_optimiser(model, settings=OptimiserSettings()).param_groups for name in group["names"]
    ]
    assert names == ["img_backbone.weight", "img_backbone.bias", "head.weight", "head.bias"]


def test_moments_go_through_tensors_and_back():
    settings = OptimiserSettings(learning_rate=0.01, part_multipliers={"img_backbone": 0.1})
    whole, halves = _model(), _model()
    _descend(whole, build_optimiser(whole, settings=settings), range(6))
    first = build_optimiser(halves, settings=settings)
    _descend(halves, first, range(3))
    tensors = {name: tensor.clone() for name, tensor in optimiser_tensors(first).items()}
    assert set(tensors) == {f"{n}|{m}" for n, _ in halves.named_parameters() for m in ("step", "exp_avg", "exp_avg_sq")}
    torch.manual_seed(1)
    second = build_optimiser(halves, settings=settings)
    load_optimiser_tensors(second, tensors=tensors)
    _descend(halves, second, range(3, 6))
    for name, weight in _weights(whole).items():
        assert torch.equal(weight, _weights(halves)[name]), name


def test_moments_lie_in_memory_as_their_parameters_do():
    def trained(*, interrupted):
        torch.manual_seed(0)
        model = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
        optimiser = build_optimiser(model, settings=OptimiserSettings(learning_rate=0.1))
        for step in range(2):
            if step and interrupted:
                moments = {name: value.clone().contiguous() for name, value in optimiser_tensors(optimiser).items()}
                optimiser = build_optimiser(model, settings=OptimiserSettings(learning_rate=0.1))
                load_optimiser_tensors(optimiser, tensors=moments)
            model(torch.ones(1, 3, 5, 5).cumsum(-1)).square().mean().backward()
            optimiser.step()
            optimiser.zero_grad()
        return model.weight

    assert trained(interrupted=True).equal(trained(interrupted=False))


def test_refuses_moments_of_others():
    with pytest.raises(ValueError, match="no parameter of that name"):
        load_optimiser_tensors(
            build_optimiser(_model(), settings=OptimiserSettings()), tensors={"tail.weight|exp_avg": torch.zeros(1)}
        )


@pytest.mark.parametrize(
    "change",
    [{"part_multipliers": {"img_back": 0.1}}, {"leaf_multipliers": {"scale": 2.0}}, {"undecayed": ("*.scale",)}],
)
def test_refuses_names_that_match_nothing(change):
    with pytest.raises(ValueError, match="the model's parts are head, img_backbone, img_neck"):
        build_optimiser(_model(), settings=OptimiserSettings(**change))


def test_refuses_a_model_with_nothing_to_train():
    with pytest.raises(ValueError, match="unfreeze"):
        build_optimiser(_model().requires_grad_(False), settings=OptimiserSettings())
