"""A transposed convolution as its phases: their outputs are its own, and every method rounds it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qdbev.quantization import (
    Keeper,
    WeightGrid,
    adaptive_rounding,
    compensate_rounding,
    make_plan,
    observing,
    quantize,
    quantized_layers,
    reconstruct,
    set_parts,
)
from qdbev.quantization.planning.output_channels import outputs_first
from qdbev.quantization.rounding.phases import phase_patches, phases_of, taps_of

LAYERS: dict[str, dict[str, Any]] = {
    "stride and kernel alike": {"kernel_size": 2, "stride": 2},
    "overlapping": {"kernel_size": 4, "stride": 2, "padding": 1},
    "with more outputs": {"kernel_size": (3, 5), "stride": (2, 3), "padding": (1, 2), "output_padding": 1},
    "no stride": {"kernel_size": 3, "padding": 1},
    "dilated": {"kernel_size": 3, "dilation": 2, "padding": 3},
    "dilated with a stride": {"kernel_size": (4, 3), "stride": (3, 2), "dilation": (2, 1), "padding": 4},
}


@pytest.mark.parametrize("name", LAYERS)
@torch.no_grad()
def test_the_phases_give_all_outputs(name: str) -> None:
    torch.manual_seed(0)
    conv = nn.ConvTranspose2d(3, 2, bias=False, **LAYERS[name])
    image = torch.randn(1, 3, 7, 6)
    rows = outputs_first(conv.weight, turned=1)
    outputs = [
        taps_of(rows, conv, phase=phase).flatten(1) @ phase_patches(image, conv, phase=phase, positions=10**6).T
        for phase in phases_of(conv)
    ]
    found, expected = torch.cat(outputs, 1), conv(image)[0].flatten(1)
    torch.testing.assert_close(found.sort(1)[0], expected.sort(1)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("positions", [1, 5, 40])
def test_places_of_a_phase_are_evenly_spaced(positions: int) -> None:
    conv = nn.ConvTranspose2d(3, 2, 2, stride=2)
    found = phase_patches(torch.randn(1, 3, 8, 5), conv, phase=(1, 0), positions=positions)
    assert positions <= len(found) <= max(2 * positions, 40) and found.shape[1] == 3


class Network(nn.Module):
    """(2, 3, 6, 6) -> (2, 5, 24, 24)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.overlapping = nn.ConvTranspose2d(8, 6, 4, stride=2, padding=1)
        self.grouped = nn.ConvTranspose2d(6, 8, 3, padding=1, groups=2)
        self.last = nn.ConvTranspose2d(8, 5, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.grouped(self.overlapping(self.first(x).relu()).relu()).relu())
        return out


IMAGE = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(1)).cumsum(-1) / 3


def calibrated() -> Any:
    model = Network().eval()
    plan = make_plan(model, parts={"all": [""]}, weight_bits=3, activation_bits=8)
    quantize(model, plan, weights=WeightGrid(follow=False))
    with observing(model):
        model(IMAGE)
    set_parts(model, ["all"])
    return model


METHODS: dict[str, Any] = {
    "gptq": lambda model: compensate_rounding(model, lambda: model(IMAGE), ["all"]),
    "adaround": lambda model: adaptive_rounding(
        model, copy.deepcopy(model), lambda one: one(IMAGE), ["all"], iterations=100, learning_rate=0.01
    ),
    "adaround to float": lambda model: adaptive_rounding(
        model,
        copy.deepcopy(model),
        lambda one: one(IMAGE),
        ["all"],
        iterations=100,
        learning_rate=0.01,
        asymmetric=True,
    ),
    "brecq": lambda model: reconstruct(
        model, copy.deepcopy(model), lambda one: one(IMAGE), ["all"], iterations=100, learning_rate=0.01
    ),
}


@pytest.mark.parametrize("method", METHODS)
@torch.no_grad()
def test_every_method_rounds_it_and_the_output_comes_nearer(method: str) -> None:
    expected, model = Network()(IMAGE), calibrated()
    before = (model(IMAGE) - expected).square().mean()
    done = METHODS[method](model)
    set_parts(model, ["all"])
    assert (model(IMAGE) - expected).square().mean() < 0.9 * before
    assert all(now <= nearest + 1e-9 for nearest, now in done.errors.values())
    for path, layer in quantized_layers(model).items():
        if method == "brecq" or path != "grouped":
            (weight,) = layer.quantized_weights()
            steps = weight.rows / weight.quantizer.scale.view(-1, 1, 1, 1)
            torch.testing.assert_close(steps, steps.round(), rtol=0, atol=1e-4)
    if method != "brecq":
        phases = {block.layer: 0 for block in done.errors}
        for block in done.errors:
            phases[block.layer] += 1
        assert phases == {"first": 1, "overlapping": 4, "last": 4}
        assert "transposed_conv of this form" in done.refused["grouped.weight"]


@torch.no_grad()
def test_phases_share_a_bias_that_takes_the_mean_of_all_outputs() -> None:
    expected, model = Network()(IMAGE), calibrated()
    compensate_rounding(model, lambda: model(IMAGE), ["all"], rounds=20)
    set_parts(model, ["all"])
    torch.testing.assert_close(model(IMAGE).mean((0, 2, 3)), expected.mean((0, 2, 3)), rtol=1e-3, atol=1e-4)


class Memory(Keeper):
    """Keeps copies, as a file would."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}

    def kept(self) -> dict[str, Tensor]:
        return self.tensors

    def keep(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}


@torch.no_grad()
def test_rounding_that_was_stopped_among_the_phases_goes_on_bit_for_bit() -> None:
    whole, stopped, again, memory = calibrated(), calibrated(), calibrated(), Memory()
    expected = compensate_rounding(whole, lambda: whole(IMAGE), ["all"], rounds=4)
    runs = []

    def run() -> None:
        runs.append(stopped(IMAGE))
        if len(runs) == 4:  # once in float, then two rounds; the third is stopped in the middle of a layer
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compensate_rounding(stopped, run, ["all"], rounds=4, keeper=memory)
    kept = {name.partition(".")[0] for name in memory.tensors if name.endswith(".errors")}
    assert 1 < len(kept) < len(expected.errors)
    done = compensate_rounding(again, lambda: again(IMAGE), ["all"], rounds=4, keeper=memory)
    assert done.errors == expected.errors
    for value, other in zip(whole.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(value, other)
