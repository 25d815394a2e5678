"""Ranges as parameters, form by form: where they start and end, what they save, what holds them, what loads."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from qdbev.quantization.layers.grids import InputGrid, WeightGrid
from qdbev.quantization.layers.model_ranges import hold_ranges, learn_ranges, range_penalty, settle_ranges
from qdbev.quantization.layers.packing import pack_model, packed_size_bytes, size_bytes, unpack_model
from qdbev.quantization.layers.quantizer import Quantizer
from qdbev.quantization.layers.swap import quantized_layers, set_parts
from qdbev.quantization.ranges.trained_ranges import RANGE_PARAMETERS, SMALLEST, RangeForm
from tests.quantization.layers.test_swap import IMAGE, PARTS, calibrated

FORMS: tuple[RangeForm, ...] = ("log", "linear", "clip")
KINDS: tuple[tuple[RangeForm, bool], ...] = (
    ("log", False),
    ("linear", False),
    ("clip", False),
    ("log", True),
    ("linear", True),
)


def values(*, negative: bool = True) -> torch.Tensor:
    x = torch.randn(3000, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.silu(2 * x) if negative else x.clamp_min(0)


def on(*, offset: bool = False, negative: bool = True, bits: int = 4, **settings: object) -> Quantizer:
    quantizer = Quantizer(name="toy", bits=bits, has_offset=offset, may_be_unsigned=True, **settings)  # type: ignore[arg-type]
    quantizer.state = "observing"
    quantizer(values(negative=negative))
    quantizer.finish_observing()
    quantizer.state = "on"
    return quantizer


@pytest.mark.parametrize("negative", [True, False])
@pytest.mark.parametrize(("form", "offset"), KINDS)
def test_learning_starts_where_the_range_is_and_ends_where_it_was_led(
    form: RangeForm, offset: bool, negative: bool
) -> None:
    quantizer, x = on(offset=offset, negative=negative), values(negative=negative)
    names, fixed = set(quantizer.state_dict()), quantizer(x)
    quantizer.learn(form)
    torch.testing.assert_close(quantizer(x), fixed, rtol=1e-5, atol=1e-6)
    optimiser = torch.optim.SGD(quantizer.parameters(), lr=0.03)
    for _ in range(5):
        optimiser.zero_grad()
        (quantizer(x).mul(1.5) - x).square().sum().backward()
        optimiser.step()
    trained, integers = quantizer(x).detach(), quantizer.integers(x)
    assert not torch.equal(trained, fixed) and torch.equal(quantizer.dequantize(integers), trained)
    quantizer.settle()
    assert list(quantizer.parameters()) == [] and set(quantizer.state_dict()) == names
    assert torch.equal(quantizer(x), trained) and torch.equal(quantizer.integers(x), integers)


@pytest.mark.parametrize("form", FORMS)
def test_what_is_never_negative_has_all_integers_above_zero(form: RangeForm) -> None:
    quantizer = on(negative=False)
    quantizer.learn(form)
    integers = quantizer.integers(values(negative=False))
    assert quantizer.unsigned and (int(integers.min()), int(integers.max())) == (0, 15)


def test_an_offset_uses_all_integers_of_a_skewed_tensor_and_errs_less() -> None:
    x, symmetric, shifted = values(), on(), on(offset=True)
    assert not shifted.unsigned and set(shifted.integers(x).tolist()) == set(range(-8, 8))
    assert (shifted(x) - x).square().mean() < 0.5 * (symmetric(x) - x).square().mean()


@pytest.mark.parametrize("name", ["log_scale", "step_size", "pact_alpha", "lsq_beta"])
def test_the_optimiser_finds_ranges_by_the_last_word_of_their_names(name: str) -> None:
    made = set()
    for form, offset in KINDS:
        quantizer = on(offset=offset)
        quantizer.learn(form)
        made |= {path.rpartition(".")[2] for path, _ in quantizer.named_parameters()}
    assert name in made and made == set(RANGE_PARAMETERS)


@pytest.mark.parametrize("form", ["linear", "clip"])
def test_no_step_of_descent_makes_a_range_zero_or_negative(form: RangeForm) -> None:
    quantizer, x = on(), values()
    quantizer.learn(form)
    parameter = next(quantizer.parameters())
    with torch.no_grad():
        parameter.fill_(-3.0)
    y = quantizer(x)
    y.sum().backward()
    assert torch.isfinite(y).all() and parameter.grad is not None and parameter.grad != 0
    quantizer.settle()
    assert 0 < quantizer.scale.item() <= SMALLEST and torch.isfinite(quantizer(x)).all()


@pytest.mark.parametrize(("form", "offset"), KINDS)
def test_a_held_range_gets_no_gradient_and_goes_on_afterwards(form: RangeForm, offset: bool) -> None:
    quantizer, x = on(offset=offset), values().requires_grad_()
    quantizer.learn(form)
    free = quantizer(x)
    quantizer.held = True
    held = quantizer(x)
    assert torch.equal(held, free)
    held.sum().backward()
    assert all(parameter.grad is None for parameter in quantizer.parameters()) and x.grad is not None
    quantizer.held = False
    quantizer(x).sum().backward()
    assert all(parameter.grad is not None for parameter in quantizer.parameters())


def test_a_held_range_does_not_move() -> None:
    quantizer = on(ema_momentum=0.5).train()
    before = quantizer.range.item()
    quantizer.held = True
    quantizer(100 * values())
    assert quantizer.range.item() == before
    quantizer.held = False
    quantizer(100 * values())
    assert quantizer.range.item() > 10 * before


def test_a_batch_of_zeros_does_not_move_a_range() -> None:
    quantizer = on(ema_momentum=0.5).train()
    before = quantizer.scale.clone()
    quantizer(torch.zeros(5))
    assert torch.equal(quantizer.scale, before)


def test_hawq_v3_moves_unsigned_ranges_on_its_own_grid() -> None:
    """``S = r / (2^k - 1)`` after a ReLU and ``r / (2^(k-1) - 1)`` elsewhere, ``r <- m r + (1 - m) max|x|``."""
    for negative, steps in ((False, 15), (True, 7)):
        quantizer = on(negative=negative, scale_rule="hawq", ema_momentum=0.75).train()
        largest = values(negative=negative).abs().max().item()
        assert quantizer.scale.item() == pytest.approx(largest / steps)
        quantizer(3 * values(negative=negative))
        assert quantizer.scale.item() == pytest.approx((0.75 + 0.25 * 3) * largest / steps)
        assert quantizer.integers(torch.tensor([99.0, -99.0])).tolist() == ([15, 0] if not negative else [7, -8])


def test_an_offset_is_saved_strictly_and_states_without_one_still_load() -> None:
    quantizer, x = on(offset=True), values()
    other = Quantizer(name="other", bits=4, has_offset=True)
    other.load_state_dict(quantizer.state_dict())
    other.state = "on"
    assert torch.equal(other(x), quantizer(x)) and torch.equal(copy.deepcopy(other)(x), other(x))
    assert set(quantizer.state_dict()) == {"scale", "flags", "offset"} and len(quantizer.flags) == 6
    assert set(on().state_dict()) == {"scale", "flags"} and len(on().flags) == 5  # as states were before offsets


@pytest.mark.parametrize("saved", [True, False])
def test_a_state_is_refused_where_the_other_has_an_offset(saved: bool) -> None:
    with pytest.raises(RuntimeError, match="1 for an offset"):
        Quantizer(name="toy", bits=4, has_offset=not saved).load_state_dict(on(offset=saved).state_dict())


@pytest.mark.parametrize("settings", [{"axis": 0, "channels": 3}, {"follow": True}, {"ema_momentum": 0.9}])
def test_an_offset_belongs_to_one_fixed_range(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="toy: an offset needs one range"):
        Quantizer(name="toy", bits=4, has_offset=True, **settings)  # type: ignore[arg-type]


def test_a_clipping_level_is_one_per_tensor() -> None:
    weights = Quantizer(name="toy", bits=4, axis=0, channels=2)
    weights.set_range(torch.ones(2))
    for quantizer in (weights, on(offset=True)):
        with pytest.raises(ValueError, match="toy: a clipping level is one per tensor"):
            quantizer.learn("clip")


def test_a_model_with_offsets_packs_and_unpacks_to_the_same_outputs() -> None:
    model = calibrated(weights=WeightGrid(follow=False), inputs=InputGrid(has_offset=True))
    set_parts(model, PARTS)
    packed = pack_model(model)
    offsets = [name for name in packed if name.endswith(".offset")]
    layers = quantized_layers(model).values()
    assert len(offsets) == sum(len(list(layer.input_quantizers())) for layer in layers)
    assert all(packed[name].dtype == torch.float32 and packed[name] != 0 for name in offsets)
    assert size_bytes(packed) == packed_size_bytes(model)
    fresh = calibrated(weights=WeightGrid(follow=False), inputs=InputGrid(has_offset=True))
    full = unpack_model(pack_model(model, rest="fp32"))
    fresh.load_state_dict(full, strict=True)
    set_parts(fresh, PARTS)
    assert torch.equal(fresh(IMAGE), model(IMAGE))


def test_weights_keep_a_grid_symmetric_about_zero() -> None:
    model = calibrated(weights=WeightGrid(follow=False), inputs=InputGrid(has_offset=True))
    assert all(
        weight.quantizer.offset is None
        for layer in quantized_layers(model).values()
        for weight in layer.quantized_weights()
    )


def test_the_penalty_is_the_sum_of_squared_levels_that_are_on_and_free() -> None:
    model = calibrated(weights=WeightGrid(follow=False), inputs=InputGrid(may_be_unsigned=True))
    set_parts(model, PARTS)
    assert range_penalty(model).item() == 0
    learn_ranges(model, weights=True, inputs=True, clip=True)
    words = {name.rpartition(".")[2] for name, _ in model.named_parameters()} & set(RANGE_PARAMETERS)
    assert words == {"log_scale", "pact_alpha"}
    alphas = {name: value for name, value in model.named_parameters() if name.endswith("pact_alpha")}
    penalty = range_penalty(model)
    penalty.backward()
    assert penalty.item() == pytest.approx(sum(alpha.item() ** 2 for alpha in alphas.values()))
    assert all(alpha.grad.item() == pytest.approx(2 * alpha.item()) for alpha in alphas.values())  # type: ignore[union-attr]
    set_parts(model, ["backbone"])
    backbone = [alpha.item() for name, alpha in alphas.items() if name.startswith("backbone")]
    assert range_penalty(model).item() == pytest.approx(sum(alpha**2 for alpha in backbone))
    hold_ranges(model, held=True)
    assert range_penalty(model).item() == 0
    settle_ranges(model)
    assert not any(quantizer.held for layer in quantized_layers(model).values() for quantizer in layer.quantizers())


@pytest.mark.parametrize(("form", "offset"), KINDS)
def test_descent_widens_a_range_that_is_too_narrow(form: RangeForm, offset: bool) -> None:
    x, quantizer = values(), on(offset=offset)
    quantizer.calibrate(x / 4)
    quantizer.learn(form)
    start = (quantizer(x) - x).square().mean().item()
    optimiser = torch.optim.Adam(quantizer.parameters(), lr=0.02)
    for _ in range(300):
        optimiser.zero_grad()
        (quantizer(x) - x).square().mean().backward()
        optimiser.step()
    assert (quantizer(x) - x).square().mean().item() < 0.3 * start


def test_pacts_penalty_narrows_a_range_that_is_too_wide() -> None:
    x, quantizer = values(negative=False), on(negative=False)
    quantizer.set_range(torch.tensor(50.0))
    quantizer.learn("clip")
    optimiser = torch.optim.Adam(quantizer.parameters(), lr=0.2)
    for factor, expected in ((0.0, 50.0), (1e-3, None)):
        for _ in range(300):
            optimiser.zero_grad()
            penalty = quantizer.trained.penalty()  # type: ignore[union-attr]
            assert penalty is not None
            ((quantizer(x) - x).square().mean() + factor * penalty).backward()
            optimiser.step()
        level = next(quantizer.parameters()).item()
        assert level == expected if expected is not None else 1.0 < level < 4.0


def test_narrow_inputs_leave_the_weights_as_they_are() -> None:
    model = calibrated(weights=WeightGrid(follow=False), inputs=InputGrid(narrow_range=True))
    layer = model.backbone[0]
    assert isinstance(layer, nn.Module)
    assert layer.input_quantizer.narrow_range and not layer.weight_quantizer.narrow_range
