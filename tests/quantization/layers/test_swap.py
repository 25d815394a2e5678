"""Quantizing a whole toy detector: off is the float model, parts switch exactly, state is strict, copies work."""

from __future__ import annotations

import copy
from typing import Literal

import pytest
import torch
from torch import nn

from qdbev.quantization.layers.grids import InputGrid, WeightGrid
from qdbev.quantization.layers.model_ranges import freeze_weight_ranges, ranges_missing
from qdbev.quantization.layers.swap import (
    active_parts,
    finish_observing,
    observing,
    quantize,
    quantized_layers,
    set_parts,
    set_sites,
    start_observing,
)
from qdbev.quantization.planning.plan import Plan
from qdbev.quantization.planning.policy import make_plan


class Toy(nn.Module):
    """Backbone, encoder with attention and an embedding, decoder whose branch runs twice."""

    def __init__(self, *, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))
        self.queries = nn.Embedding(6, 8)
        self.attn = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm = nn.LayerNorm(8)
        self.branch = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
        self.level_embeds = nn.Parameter(torch.randn(1, 8))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        tokens = self.backbone(image).flatten(2).transpose(1, 2) + self.level_embeds
        query = self.queries.weight[None].expand(len(image), -1, -1)
        query = self.norm(query + self.attn(query, tokens, tokens)[0])
        return self.branch(query) + self.branch(query * 2)


PARTS = {"backbone": ["backbone"], "encoder": ["queries", "attn", "norm", "level_embeds"], "decoder": ["branch"]}
IMAGE = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(9))


def planned(model: nn.Module, *, bits: int = 4) -> Plan:
    return make_plan(model, parts=PARTS, weight_bits=bits, activation_bits=bits)


COMMON = ("scale_rule", "narrow_range", "observer", "percentile")


def calibrated(*, bits: int = 4, **grids: WeightGrid | InputGrid) -> Toy:
    model = Toy().eval()
    quantize(model, planned(model, bits=bits), **grids)  # type: ignore[arg-type]
    with observing(model), torch.no_grad():
        model(IMAGE)
    return model


def test_off_is_bit_identical() -> None:
    model = Toy()
    expected = model(IMAGE)
    names, objects = list(model.state_dict()), [id(parameter) for parameter in model.parameters()]
    quantize(model, planned(model))
    assert torch.equal(model(IMAGE), expected) and torch.equal(calibrated()(IMAGE), expected)
    assert [id(parameter) for parameter in model.parameters()] == objects
    assert [name for name in model.state_dict() if "quantizer" not in name] == names


def test_every_quantized_site_becomes_a_layer() -> None:
    model = calibrated()
    assert list(quantized_layers(model)) == ["backbone.0", "backbone.2", "queries", "attn", "branch.0", "branch.2"]


def test_parts_switch_exactly() -> None:
    model = calibrated()
    for parts in ({"backbone"}, {"encoder", "decoder"}, set(), set(PARTS)):
        set_parts(model, parts)
        assert active_parts(model) == parts
        for layer in quantized_layers(model).values():
            assert {quantizer.state for quantizer in layer.quantizers()} == {
                "on" if layer.site.part in parts else "off"
            }


def test_parts_change_only_what_follows_them() -> None:
    model = calibrated()
    expected = model(IMAGE)
    features = model.backbone(IMAGE)
    set_parts(model, {"decoder"})
    assert torch.equal(model.backbone(IMAGE), features) and not torch.equal(model(IMAGE), expected)
    set_parts(model, set())
    assert torch.equal(model(IMAGE), expected)


def test_sites_switch_exactly() -> None:
    model = calibrated()
    set_sites(model, ["branch.2", "queries"])
    on = [p for p, layer in quantized_layers(model).items() if any(q.state == "on" for q in layer.quantizers())]
    assert on == ["queries", "branch.2"]


@pytest.mark.parametrize("tensors", ["all", "weights", "inputs"])
def test_weights_or_inputs_of_a_site_alone(tensors: str) -> None:
    model = calibrated()
    set_sites(model, ["branch.2", "attn"], tensors=tensors)  # type: ignore[arg-type]
    for path, layer in quantized_layers(model).items():
        weights = {weight.quantizer.state for weight in layer.quantized_weights()}
        inputs = {quantizer.state for quantizer in layer.input_quantizers()}
        chosen = path in ("branch.2", "attn")
        assert weights == ({"on"} if chosen and tensors != "inputs" else {"off"}), path
        assert inputs <= ({"on"} if chosen and tensors != "weights" else {"off"}), path


def test_unknown_parts_and_sites_are_refused() -> None:
    model = calibrated()
    with pytest.raises(ValueError, match=r"belongs to neck; parts are backbone, encoder, decoder"):
        set_parts(model, {"neck"})
    with pytest.raises(ValueError, match=r"no quantized sites: norm"):
        set_sites(model, ["norm"])


def test_without_calibration_it_refuses_by_name() -> None:
    model = Toy()
    quantize(model, planned(model))
    missing = ranges_missing(model)
    assert "backbone.0.input_quantizer" in missing and "attn.out_proj.input_quantizer" in missing
    assert not [name for name in missing if "weight_quantizer" in name]  # they follow their weights
    set_parts(model, {"decoder"})
    with pytest.raises(ValueError, match=r"branch\.0\.input_quantizer has no range"):
        model(IMAGE)


def test_calibration_watches_the_float_model() -> None:
    model, seen = calibrated(), []
    model.backbone[2].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].abs().max()))
    set_parts(model, set())
    model(IMAGE)
    assert quantized_layers(model)["backbone.2"].input_quantizer.range == pytest.approx(seen[0].item())  # type: ignore[union-attr]
    assert ranges_missing(model) == []


def test_calibrating_again_while_parts_are_on_gives_the_same_ranges() -> None:
    model = calibrated(bits=2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    set_parts(model, set(PARTS))
    with observing(model), torch.no_grad():
        model(IMAGE)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert active_parts(model) == set()


def test_a_layer_that_runs_twice_covers_both_runs() -> None:
    model, seen = calibrated(), []
    model.branch[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].abs().max().item()))
    model(IMAGE)
    assert len(seen) == 2
    assert quantized_layers(model)["branch.0"].input_quantizer.range.item() == pytest.approx(max(seen))  # type: ignore[union-attr]


def test_a_failed_calibration_changes_no_range() -> None:
    model = calibrated()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(RuntimeError, match="stop"), observing(model):
        model(IMAGE * 100)
        raise RuntimeError("stop")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert active_parts(model) == set()


def test_layers_that_calibration_did_not_reach_are_named() -> None:
    model = Toy()
    quantize(model, planned(model))
    start_observing(model)
    model.backbone(IMAGE)
    unseen = finish_observing(model)
    assert "branch.0.input_quantizer" in unseen and "backbone.0.input_quantizer" not in unseen
    assert ranges_missing(model) == unseen


def test_state_loads_strictly_into_a_fresh_model() -> None:
    model, fresh = calibrated(), Toy(seed=1)
    quantize(fresh, planned(fresh))
    set_parts(model, set(PARTS))
    fresh.load_state_dict(model.state_dict(), strict=True)
    set_parts(fresh, set(PARTS))
    assert torch.equal(fresh.eval()(IMAGE), model(IMAGE))


def test_state_of_a_float_model_or_of_other_bits_is_refused() -> None:
    model = calibrated()
    with pytest.raises(RuntimeError, match=r"Missing key.*weight_quantizer"):
        model.load_state_dict(Toy().state_dict())
    with pytest.raises(RuntimeError, match=r"backbone\.0\.weight_quantizer is \[8"):
        calibrated(bits=8).load_state_dict(model.state_dict())


def test_copies_are_independent() -> None:
    model = calibrated()
    set_parts(model, set(PARTS))
    twin = copy.deepcopy(model)
    expected = model(IMAGE)
    assert torch.equal(twin(IMAGE), expected)
    set_parts(model, set())
    with torch.no_grad():
        model.backbone[0].weight.mul_(2)
    assert torch.equal(twin(IMAGE), expected) and active_parts(twin) == set(PARTS)


def test_training_moves_every_weight_and_evaluation_equals_the_saved_model() -> None:
    model = calibrated().train()
    set_parts(model, set(PARTS))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for _ in range(3):
        optimizer.zero_grad()
        model(IMAGE).square().mean().backward()
        optimizer.step()
    assert not [name for name, value in model.named_parameters() if torch.equal(value, before[name])]
    model.eval()
    fresh = Toy(seed=5)
    quantize(fresh, planned(fresh))
    fresh.load_state_dict(model.state_dict())
    set_parts(fresh, set(PARTS))
    assert torch.equal(fresh.eval()(IMAGE), model(IMAGE))


def test_frozen_weight_ranges_stay() -> None:
    model = calibrated(weights=WeightGrid(follow=False))
    quantizer = quantized_layers(model)["backbone.0"].weight_quantizer  # type: ignore[union-attr]
    scale = quantizer.scale.clone()
    with torch.no_grad():
        model.backbone[0].weight.mul_(2)
    set_parts(model, set(PARTS))
    model(IMAGE)
    assert torch.equal(quantizer.scale, scale)
    follower = calibrated()
    freeze_weight_ranges(follower)
    assert not any(
        weight.quantizer.follows
        for layer in quantized_layers(follower).values()
        for weight in layer.quantized_weights()
    )


def test_weight_granularity_and_float_activations() -> None:
    model = Toy()
    plan = make_plan(model, parts=PARTS, weight_bits=4, activation_bits=32)
    quantize(model, plan, weights=WeightGrid(granularity="tensor"))
    layer = quantized_layers(model)["backbone.0"]
    assert layer.input_quantizer is None and layer.weight_quantizer.scale.shape == ()  # type: ignore[union-attr]
    set_parts(model, set(PARTS))
    assert ranges_missing(model) == [] and model(IMAGE).isfinite().all()


@pytest.mark.parametrize(
    ("grid", "settings", "message"),
    [
        (WeightGrid, {"observer": "entropy"}, "per tensor only"),
        (InputGrid, {"observer": "median"}, "observer must be"),
        (WeightGrid, {"observer": "mse", "follow": True}, "min-max"),
        (WeightGrid, {"scale_rule": "other"}, "qdbev, hawq"),
        (InputGrid, {"scale_rule": "other"}, "qdbev, hawq"),
        (WeightGrid, {"granularity": "row"}, "channel or tensor"),
        (InputGrid, {"ema_momentum": 1.5}, "momentum"),
        (InputGrid, {"has_offset": True, "ema_momentum": 0.5}, "neither follows nor moves"),
        (InputGrid, {"observer": "percentile", "percentile": 0.0}, "percentile"),
    ],
)
def test_impossible_choices_are_refused_before_there_is_a_grid(
    grid: type[WeightGrid | InputGrid], settings: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        grid(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("granularity", ["channel", "tensor"])
def test_quantizers_are_as_their_grids_say(granularity: Literal["channel", "tensor"]) -> None:
    weights = WeightGrid(scale_rule="hawq", narrow_range=True, observer="mse", percentile=98.0, granularity=granularity)
    inputs = InputGrid(observer="percentile", percentile=99.0, ema_momentum=0.75, may_be_unsigned=True)
    model = Toy()
    for layer in quantized_layers(quantize(model, planned(model), weights=weights, inputs=inputs)).values():
        for weight in layer.quantized_weights():
            quantizer, channels = weight.quantizer, len(weight.value) if granularity == "channel" else None
            assert quantizer.scale.shape == (() if channels is None else (channels,))
            assert (quantizer.axis is None) == (channels is None) and not quantizer.follows
            assert all(getattr(quantizer, name) == getattr(weights, name) for name in COMMON)
        for quantizer in layer.input_quantizers():
            assert all(getattr(quantizer, name) == getattr(inputs, name) for name in (*COMMON, "ema_momentum"))
            assert quantizer.may_be_unsigned and quantizer.offset is None and quantizer.axis is None


def test_plans_of_other_models_and_second_times_are_refused() -> None:
    model = Toy()
    plan = planned(model)
    with pytest.raises(ValueError, match=r"backbone\.0, which the model has not"):
        quantize(nn.ModuleDict({"other": nn.Linear(2, 2)}), plan)
    wrong = Toy()
    wrong.branch[0] = nn.Conv2d(3, 3, 1)
    with pytest.raises(ValueError, match=r"branch\.0 is a Conv2d in the model and linear in the plan"):
        quantize(wrong, plan)
    quantize(model, plan)
    with pytest.raises(ValueError, match="quantized already"):
        quantize(model, plan)
    with pytest.raises(ValueError, match="quantized already"):
        planned(model)


def test_a_shared_module_is_quantized_once_and_used_everywhere() -> None:
    shared = nn.Linear(3, 3)
    model = nn.Sequential(shared, nn.ReLU(), shared)
    quantize(model, make_plan(model, parts={"all": [""]}, weight_bits=4, activation_bits=4))
    with observing(model):
        model(torch.randn(4, 3))
    set_parts(model, {"all"})
    assert model[0] is model[2] and model(torch.randn(2, 3)).isfinite().all()
    fresh = nn.Sequential(*(lambda layer: (layer, nn.ReLU(), layer))(nn.Linear(3, 3)))
    quantize(fresh, make_plan(fresh, parts={"all": [""]}, weight_bits=4, activation_bits=4))
    fresh.load_state_dict(model.state_dict(), strict=True)


def test_the_fused_path_of_torchs_encoder_layer_does_not_skip_the_quantizers() -> None:
    model = nn.ModuleDict({"layer": nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)}).eval()
    x = torch.randn(2, 4, 8)
    quantize(model, make_plan(model, parts={"all": [""]}, weight_bits=3, activation_bits=3))
    with torch.no_grad():
        expected = model["layer"](x)
        with observing(model):
            model["layer"](x)
        set_parts(model, {"all"})
        assert ranges_missing(model) == [] and (model["layer"](x) - expected).abs().max() > 1e-3


def test_ranges_survive_inference_mode() -> None:
    model = calibrated()
    set_parts(model, set(PARTS))
    with torch.inference_mode():
        inside = model(IMAGE)
    assert torch.equal(inside, model(IMAGE).detach())
