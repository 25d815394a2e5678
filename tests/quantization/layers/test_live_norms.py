"""Batch norms given back to folded layers: nothing changes at first, they follow batches, and fold without a trace."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from qdbev.quantization.layers.grids import InputGrid, WeightGrid
from qdbev.quantization.layers.live_norms import EPSILON, LiveNorm, LiveNorms, thaw_norms
from qdbev.quantization.layers.model_ranges import learn_ranges, settle_ranges
from qdbev.quantization.layers.swap import quantized_layers, set_parts
from tests.quantization.layers.test_swap import IMAGE, PARTS, Toy, calibrated

CONVS = ["backbone.0", "backbone.2"]


def thawed(**grids: WeightGrid | InputGrid) -> tuple[Toy, LiveNorms]:
    model = calibrated(**grids)
    set_parts(model, PARTS)
    return model, thaw_norms(model, CONVS, lambda: model.eval()(IMAGE))


def integers(model: Toy) -> dict[str, torch.Tensor]:
    return {
        f"{path}.{weight.name}": weight.quantizer.integers(weight.value)
        for path, layer in quantized_layers(model).items()
        for weight in layer.quantized_weights()
    }


def train(model: Toy, *, steps: int = 5) -> None:
    model.train()
    optimiser = torch.optim.SGD([parameter for parameter in model.parameters() if parameter.requires_grad], lr=0.01)
    for _ in range(steps):
        optimiser.zero_grad()
        model(2 * IMAGE + 0.3).square().mean().backward()
        optimiser.step()
    model.eval()


def test_at_first_nothing_changes_in_evaluation_and_batches_count_in_training() -> None:
    plain = calibrated(weights=WeightGrid(follow=False))
    set_parts(plain, PARTS)
    model, _ = thawed(weights=WeightGrid(follow=False))
    torch.testing.assert_close(model(IMAGE), plain(IMAGE), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.train()(IMAGE), plain.train()(IMAGE), rtol=1e-3, atol=1e-4)  # the batch measured
    moved = 3 * IMAGE + 1
    assert not torch.allclose(model(moved), plain(moved), atol=0.05)


def test_in_training_it_is_torchs_batch_norm() -> None:
    generator = torch.Generator().manual_seed(0)
    mean, variance = torch.randn(4, generator=generator), torch.rand(4, generator=generator) + 0.1
    ours, theirs = LiveNorm(mean=mean, variance=variance), nn.BatchNorm2d(4, eps=EPSILON)
    with torch.no_grad():
        theirs.running_mean, theirs.running_var = mean.clone(), variance.clone()
        theirs.weight.copy_((variance + EPSILON).sqrt())
        theirs.bias.copy_(mean)
    for _ in range(3):
        x = torch.randn(2, 4, 5, 5, generator=generator)
        torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    torch.testing.assert_close(ours.running_var, theirs.running_var)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


@pytest.mark.parametrize("kind", ["frozen", "learned", "follow"])
def test_folding_keeps_outputs_and_integers(kind: str) -> None:
    """By HAWQ's rule: by Eq. 1 the largest weight of a range that follows lies at a tie, which may round either way."""
    grids = {"weights": WeightGrid(follow=kind == "follow", scale_rule="hawq"), "inputs": InputGrid(scale_rule="hawq")}
    model, norms = thawed(**grids)
    names = set(calibrated(**grids).state_dict())
    learn_ranges(model, weights=kind == "learned", inputs=False)
    train(model)
    settle_ranges(model)
    expected, before = model(IMAGE), integers(model)
    assert all((norm.factor() - 1).abs().max() > 1e-3 for norm in norms.norms.values())
    norms.fold()
    torch.testing.assert_close(model(IMAGE), expected, rtol=1e-4, atol=1e-5)
    assert set(model.state_dict()) == names and not model.backbone[0]._forward_hooks
    for name, after in integers(model).items():
        assert torch.equal(after, before[name]), name
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_factor_stays_above_zero_wherever_gamma_goes() -> None:
    model, norms = thawed(weights=WeightGrid(follow=False))
    with torch.no_grad():
        norms.norms["backbone.0"].weight[0] = -3.0
    expected, before = model(IMAGE), integers(model)["backbone.0.weight"]
    norms.fold()
    torch.testing.assert_close(model(IMAGE), expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(integers(model)["backbone.0.weight"], before)


def test_biases_are_the_norms_business_meanwhile() -> None:
    model, _ = thawed(weights=WeightGrid(follow=False))
    before = model.backbone[0].bias.clone()
    train(model)
    assert torch.equal(model.backbone[0].bias, before)
    assert not torch.equal(model.backbone[0].live_norm.bias, model.backbone[0].live_norm.running_mean)


def test_a_layer_that_does_not_run_gets_no_norm() -> None:
    model = calibrated(weights=WeightGrid(follow=False))
    assert thaw_norms(model, CONVS, lambda: None).norms == {}


def test_ranges_settle_before_norms_fold() -> None:
    model, norms = thawed(weights=WeightGrid(follow=False))
    learn_ranges(model, weights=True, inputs=False)
    with pytest.raises(ValueError, match=r"range of backbone\.0 is still learned"):
        norms.fold()


@pytest.mark.parametrize("wrong", ["tensor", "bias"])
def test_layers_that_cannot_take_a_norm_back_are_refused(wrong: str) -> None:
    model = calibrated(weights=WeightGrid(follow=False, granularity="tensor" if wrong == "tensor" else "channel"))
    if wrong == "bias":
        model.backbone[0].bias = None
    with pytest.raises(ValueError, match=r"backbone\.0 is none"):
        thaw_norms(model, CONVS, lambda: model(IMAGE))
