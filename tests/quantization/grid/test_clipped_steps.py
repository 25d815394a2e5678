"""Gradients of LSQ, LSQ+ and PACT against the printed formulas in float64, autograd of them, and torch's own kernel.

What a backward pass keeps is measured, and that recomputing it changes no number. Brevitas: ``test_against_brevitas``.
"""

from __future__ import annotations

import math
from contextlib import nullcontext

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn

from qdbev.quantization.grid.clipped_steps import fake_quantize_clipped, fake_quantize_stepped
from qdbev.quantization.grid.fake_quantize import fake_quantize, fake_quantize_learned
from qdbev.quantization.grid.integers import dequantize, integer_limits, quantize_int, steps_per_range
from qdbev.quantization.layers.grids import InputGrid, WeightGrid
from qdbev.quantization.layers.model_ranges import learn_ranges
from qdbev.quantization.layers.swap import observing, quantize, set_parts
from qdbev.quantization.planning.activation_memory import activation_memory
from qdbev.quantization.planning.policy import make_plan

BITS = st.integers(2, 8)
SEEDS = st.integers(0, 1000)


def drawn(seed: int, *, size: int = 40, width: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Values and upstream gradients in float32."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, generator=generator) * width, torch.randn(size, generator=generator)


def pairs(x: torch.Tensor, upstream: torch.Tensor) -> list[tuple[float, float]]:
    return list(zip(x.double().tolist(), upstream.double().tolist(), strict=True))


def by_formula(x: torch.Tensor, upstream: torch.Tensor, *, scale: float, offset: float, bits: int) -> list[float]:
    """Eq. 3 of LSQ with LSQ+'s offset, one element after the other: sums for S and beta, times 1/sqrt(N p)."""
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    of_scale = of_offset = 0.0
    for value, gradient in pairs(x, upstream):
        v = (value - offset) / scale
        if v <= low or v >= high:
            of_scale += gradient * (low if v <= low else high)
            of_offset += gradient
        else:
            of_scale += gradient * (round(v) - v)
    share = 1 / math.sqrt(x.numel() * high)
    return [of_scale * share, of_offset * share]


@given(bits=BITS, seed=SEEDS, offset=st.floats(-2, 2), width=st.floats(0.1, 10))
def test_step_and_offset_get_the_printed_gradients(bits: int, seed: int, offset: float, width: float) -> None:
    x, upstream = drawn(seed, width=width)
    scale = torch.tensor(2.0 / 2**bits, requires_grad=True)
    beta = torch.tensor(offset, requires_grad=True)
    values = x.clone().requires_grad_()
    fake_quantize_stepped(values, scale=scale, offset=beta, bits=bits).backward(upstream)
    expected = by_formula(x, upstream, scale=scale.item(), offset=beta.item(), bits=bits)
    assert scale.grad is not None and beta.grad is not None
    # one element whose float32 quotient ties the other way moves the sum by up to its gradient
    v = (x.double() - beta.item()) / scale.item()
    assume(bool(((v - v.floor() - 0.5).abs() > 1e-4).all()) and bool(((v - v.round()).abs() > 1e-6).all()))
    assert scale.grad.item() == pytest.approx(expected[0], abs=1e-4, rel=1e-4)
    assert beta.grad.item() == pytest.approx(expected[1], abs=1e-5)
    low, high = integer_limits(bits)
    assert values.grad is not None and torch.equal(values.grad, torch.where((v > low) & (v < high), upstream, 0.0))


@given(bits=BITS, seed=SEEDS, with_offset=st.booleans())
def test_gradients_are_those_of_autograd_through_the_formula(bits: int, seed: int, with_offset: bool) -> None:
    """``(v + (round(v) - v).detach()) S + beta`` with ``v = clamp((x - beta) / S)``, in float64."""
    x, upstream = (tensor.double() for tensor in drawn(seed))
    low, high = integer_limits(bits)
    ours, theirs = (
        [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (2.0 / 2**bits, 0.3)]
        for _ in range(2)
    )
    mine, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    beta = ours[1] if with_offset else None
    y = fake_quantize_stepped(mine, scale=ours[0], offset=beta, bits=bits)
    shifted = other - theirs[1] if with_offset else other
    v = torch.clamp(shifted / theirs[0], low, high)
    expected = (v + (v.round() - v).detach()) * theirs[0]
    expected = expected + theirs[1] if with_offset else expected
    torch.testing.assert_close(y, expected)
    y.backward(upstream)
    expected.backward(upstream)
    share = (x.numel() * high) ** -0.5
    torch.testing.assert_close(mine.grad, other.grad)
    torch.testing.assert_close(ours[0].grad, theirs[0].grad * share)  # type: ignore[operator]
    if with_offset:
        torch.testing.assert_close(ours[1].grad, theirs[1].grad * share, rtol=1e-5, atol=1e-6)  # type: ignore[operator]


@given(bits=st.integers(2, 8), seed=SEEDS, zero_point=st.integers(0, 3))
def test_gradients_are_those_of_torchs_learnable_kernel(bits: int, seed: int, zero_point: int) -> None:
    """Torch asks after rounding what is clipped, and its zero point counts steps: ``beta = -S z``.

    Negative zero points are left out: that kernel's backward pass rounds them otherwise than its forward pass.
    """
    low, high = integer_limits(bits)
    zero_point = min(zero_point, high)
    x, upstream = drawn(seed, size=80)
    step = 2.0 / 2**bits
    v = x / step + zero_point
    clear = ((v <= low - 0.5) | (v >= high + 0.5) | ((v > low) & (v < high))) & ((v - v.floor() - 0.5).abs() > 1e-3)
    x, upstream = x[clear], upstream[clear]
    share = (x.numel() * high) ** -0.5
    scale, beta = torch.tensor(step, requires_grad=True), torch.tensor(-step * zero_point, requires_grad=True)
    theirs = torch.tensor([step], requires_grad=True)
    zero = torch.tensor([float(zero_point)], requires_grad=True)
    mine, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    y = fake_quantize_stepped(mine, scale=scale, offset=beta, bits=bits)
    expected = torch._fake_quantize_learnable_per_tensor_affine(other, theirs, zero, low, high, share)
    torch.testing.assert_close(y, expected)
    y.backward(upstream)
    expected.backward(upstream)
    assert scale.grad is not None and beta.grad is not None and theirs.grad is not None and zero.grad is not None
    torch.testing.assert_close(mine.grad, other.grad)
    # their step moves beta along, as beta = -S z: dL/dS at fixed z is dL/dS - z dL/dbeta at fixed beta
    torch.testing.assert_close(scale.grad - zero_point * beta.grad, theirs.grad[0], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(beta.grad * -step, zero.grad[0], rtol=1e-3, atol=1e-5)


@given(bits=BITS, seed=SEEDS, signed=st.booleans(), rule=st.sampled_from(["qdbev", "hawq"]))
def test_the_clipping_level_gets_pacts_gradient(bits: int, seed: int, signed: bool, rule: str) -> None:
    x, upstream = drawn(seed, width=2.0)
    x = x if signed else x.clamp_min(0)
    grid = bits if signed else bits + 1
    alpha, values = torch.tensor(1.5, requires_grad=True), x.clone().requires_grad_()
    steps = steps_per_range(grid, rule=rule)
    y = fake_quantize_clipped(values, alpha=alpha, steps_per_range=steps, bits=grid)
    y.backward(upstream)
    expected = 0.0
    for value, gradient in pairs(x, upstream):
        expected += gradient * (0.0 if abs(value) < 1.5 else math.copysign(1.0, value))
    assert alpha.grad is not None and alpha.grad.item() == pytest.approx(expected, abs=1e-4)
    assert values.grad is not None and torch.equal(values.grad, torch.where(x.abs() < 1.5, upstream, 0.0))
    assert torch.equal(y.detach(), fake_quantize(x, scale=torch.tensor(1.5) / steps, bits=grid))


@given(bits=BITS, seed=SEEDS)
def test_pacts_own_grid_by_its_own_formula(bits: int, seed: int) -> None:
    """Unsigned, by HAWQ's rule: ``round(y (2^k - 1) / a) a / (2^k - 1)`` with ``y = (|x| - |x - a| + a) / 2``."""
    x, levels, a = drawn(seed)[0].double(), 2**bits - 1, 1.25
    clipped = 0.5 * (x.abs() - (x - a).abs() + a)
    expected = torch.round(clipped * levels / a) * a / levels
    steps = steps_per_range(bits + 1, rule="hawq")
    y = fake_quantize_clipped(
        x.clamp_min(0), alpha=torch.tensor(a, dtype=torch.float64), steps_per_range=steps, bits=bits + 1
    )
    assert steps == levels
    torch.testing.assert_close(y, expected)


@pytest.mark.parametrize("rule", ["qdbev", "hawq"])
def test_signed_pact_never_leaves_its_range(rule: str) -> None:
    """By HAWQ's rule the most negative integer would stand for less than -alpha, and is left out."""
    alpha, steps = torch.tensor(7.0), steps_per_range(4, rule=rule)
    y = fake_quantize_clipped(
        torch.tensor([-100.0, 100.0]), alpha=alpha, steps_per_range=steps, bits=4, narrow_range=rule == "hawq"
    )
    assert y.tolist() == ([-7.0, 7.0] if rule == "hawq" else pytest.approx([-8 * 7 / 7.5, 7 * 7 / 7.5]))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_steps_per_channel_learn_alone(layout: torch.memory_format) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 3, 4, 5, generator=generator).to(memory_format=layout)
    upstream = torch.randn(3, 3, 4, 5, generator=generator)
    scale = torch.tensor([0.1, 0.2, 0.3], requires_grad=True)
    fake_quantize_stepped(x, scale=scale, bits=4, axis=0).backward(upstream)
    for channel in range(3):
        expected = by_formula(
            x[channel].flatten(),
            upstream[channel].flatten(),
            scale=scale[channel].item(),
            offset=0.0,
            bits=4,
        )
        assert scale.grad is not None and scale.grad[channel].item() == pytest.approx(expected[0], abs=1e-5)


@given(bits=BITS, seed=SEEDS)
def test_inside_and_far_outside_both_readings_of_the_clip_agree(bits: int, seed: int) -> None:
    x, upstream = drawn(seed)
    step = 2.0 / 2**bits
    low, high = integer_limits(bits)
    v = x / step
    agreed = (v <= low - 0.5) | (v >= high + 0.5) | ((v > low) & (v < high))
    x, upstream = x[agreed], upstream[agreed]
    scale, log_scale = torch.tensor(step, requires_grad=True), torch.tensor(step).log().requires_grad_()
    y, logged = (
        fake_quantize_stepped(x, scale=scale, bits=bits),
        fake_quantize_learned(x, log_scale=log_scale, bits=bits),
    )
    torch.testing.assert_close(y, logged)
    y.backward(upstream)
    logged.backward(upstream)
    assert scale.grad is not None and log_scale.grad is not None
    assert log_scale.grad.item() == pytest.approx(scale.grad.item() * step, abs=2e-4)


def masked_step(
    x: Tensor, upstream: Tensor, *, scale: Tensor, beta: Tensor | None, bits: int, axis: int | None
) -> list[Tensor]:
    """Values and gradients of LSQ and LSQ+ from masks that a forward pass would keep, in float32."""
    low, high = integer_limits(bits)
    aligned = scale if axis is None else scale.view([-1 if place == axis else 1 for place in range(x.ndim)])
    steps = (x if beta is None else x - beta) / aligned
    within, integers = (steps > low) & (steps < high), steps.round().clamp(low, high)
    passed, share = within.to(x.dtype) * upstream, (x.numel() / scale.numel() * high) ** -0.5
    others = None if axis is None else [place for place in range(x.ndim) if place != axis]
    of_scale = ((integers - steps * within) * upstream).sum(others) * share
    if beta is None:
        return [integers * aligned, passed, of_scale]
    return [integers * aligned + beta, passed, of_scale, (upstream - passed).sum() * share]


def masked_level(x: Tensor, upstream: Tensor, *, alpha: Tensor, steps: float, bits: int) -> list[Tensor]:
    """Values and gradients of PACT from a mask that a forward pass would keep, in float32."""
    side, scale = x.ge(alpha).to(torch.int8) - x.le(-alpha).to(torch.int8), alpha / steps
    y = (x / scale).round().clamp(*integer_limits(bits)) * scale
    return [y, upstream * side.eq(0), (upstream * side).sum()]


def tied(seed: int, *, step: float) -> tuple[Tensor, Tensor]:
    """Values of which half lie on the grid, its limits and halfway between, and upstream gradients."""
    generator = torch.Generator().manual_seed(seed)
    x, upstream = (torch.randn(2, 3, 5, 4, generator=generator) for _ in range(2))
    x[0] = (x[0] * 2 / step).round() * step / 2
    return x * 1.5, upstream


def same(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    return all(torch.equal(tensor, other) for tensor, other in zip(ours, theirs, strict=True))


@given(bits=BITS, seed=SEEDS, unsigned=st.booleans(), axis=st.sampled_from([None, 0, 1]), with_offset=st.booleans())
def test_recomputed_steps_give_the_numbers_of_masks_that_are_kept(
    bits: int, seed: int, unsigned: bool, axis: int | None, with_offset: bool
) -> None:
    step, grid = 2.0 / 2**bits, bits + unsigned
    x, upstream = tied(seed, step=step)
    scale = torch.tensor(step) if axis is None else torch.linspace(step, 2 * step, x.shape[axis])
    beta = torch.tensor(0.25) if with_offset and axis is None and not unsigned else None
    learned = [tensor.clone().requires_grad_() for tensor in (x, scale, beta) if tensor is not None]
    y = fake_quantize_stepped(
        learned[0],
        scale=learned[1],
        offset=None if beta is None else learned[2],
        bits=grid,
        axis=axis,
        unsigned=unsigned,
    )
    ours = [y, *torch.autograd.grad(y, learned, upstream)]
    theirs = masked_step(x.clamp_min(0) if unsigned else x, upstream, scale=scale, beta=beta, bits=grid, axis=axis)
    if unsigned:
        theirs[1] = torch.where(x >= 0, theirs[1], 0)
    assert same(ours, theirs)


@given(bits=BITS, seed=SEEDS, unsigned=st.booleans())
def test_recomputed_levels_give_the_numbers_of_masks_that_are_kept(bits: int, seed: int, unsigned: bool) -> None:
    grid = bits + unsigned
    steps = steps_per_range(grid)
    x, upstream = tied(seed, step=2.0 / 2**bits)
    alpha, values = torch.tensor(1.5, requires_grad=True), x.clone().requires_grad_()
    y = fake_quantize_clipped(values, alpha=alpha, steps_per_range=steps, bits=grid, unsigned=unsigned)
    ours = [y, *torch.autograd.grad(y, [values, alpha], upstream)]
    seen = x.clamp_min(0) if unsigned else x
    theirs = masked_level(seen, upstream, alpha=alpha.detach(), steps=steps, bits=grid)
    if unsigned:
        theirs[1] = torch.where(x >= 0, theirs[1], 0)
    assert same(ours, theirs)


def test_an_unsigned_grid_takes_no_offset() -> None:
    with pytest.raises(ValueError, match="takes no offset"):
        fake_quantize_stepped(torch.ones(2), scale=torch.ones(()), bits=4, offset=torch.ones(()), unsigned=True)


FORMS = {
    "lsq": {"form": "linear"},
    "lsq+": {"form": "linear", "offset": True},
    "lsq+ log": {"form": "log", "offset": True},
    "pact": {"form": "linear", "clip": True},
    "lsq+ held": {"offset": True},
}


def chain() -> nn.Module:
    layers = [nn.Conv2d(4, 4, 3, padding=1) if place % 2 else nn.ReLU(inplace=True) for place in range(8)]
    return nn.Sequential(nn.Conv2d(3, 4, 1), *layers)


def quantized(
    model: nn.Module, x: Tensor, *, unsigned: bool, form: str = "", offset: bool = False, clip: bool = False
) -> nn.Module:
    """Calibrated at four bits and on, the ranges learned in a form, or held without one."""
    plan = make_plan(model, parts={"all": [""]}, weight_bits=4, activation_bits=4)
    quantize(
        model, plan, weights=WeightGrid(follow=False), inputs=InputGrid(may_be_unsigned=unsigned, has_offset=offset)
    )
    with observing(model), torch.no_grad():
        model(x)
    set_parts(model, {"all"})
    if form:
        learn_ranges(model, weights=True, inputs=True, form=form, clip=clip)  # type: ignore[arg-type]
    return model


@pytest.mark.parametrize("unsigned", [False, True])
@pytest.mark.parametrize("kind", FORMS)
def test_at_most_one_bit_per_activation_is_kept_beyond_float(kind: str, unsigned: bool) -> None:
    model, x = chain(), torch.rand(1, 3, 64, 64)

    def saved() -> int:
        return activation_memory(model, lambda: model(torch.ones(1, 3, 64, 64))).kept_bytes

    plain = saved()
    quantized(model, x, unsigned=unsigned, **FORMS[kind])  # type: ignore[arg-type]
    read = 64 * 64 * (3 + 4 * 4)  # elements that pass an input quantizer
    assert 8 * (saved() - plain) / read < 0.1


@pytest.mark.parametrize("unsigned", [False, True])
@pytest.mark.parametrize("kind", FORMS)
def test_layers_that_make_their_input_again_have_the_same_gradients(
    kind: str, unsigned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 8, 8)
    model = quantized(chain(), x * 0.8, unsigned=unsigned, **FORMS[kind])  # type: ignore[arg-type]
    ours = torch.autograd.grad(model(x).square().sum(), list(model.parameters()))
    monkeypatch.setattr("qdbev.quantization.layers.quantized.recomputing", nullcontext)
    theirs = torch.autograd.grad(model(x).square().sum(), list(model.parameters()))
    assert same(list(ours), list(theirs)) and any(gradient.any() for gradient in ours)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_values_are_those_of_the_integers(dtype: torch.dtype) -> None:
    x = (torch.randn(500, generator=torch.Generator().manual_seed(1)) * 3).to(dtype)
    scale, offset = torch.tensor(0.37), torch.tensor(1.13)
    y = fake_quantize_stepped(x, scale=scale, offset=offset, bits=4)
    integers = quantize_int(x, scale=scale, bits=4, offset=offset)
    assert y.dtype == dtype and torch.equal(y, dequantize(integers, scale=scale, offset=offset).to(dtype))


def test_nothing_in_gives_nothing_out() -> None:
    scale, alpha = torch.tensor(0.5, requires_grad=True), torch.tensor(0.5, requires_grad=True)
    y = fake_quantize_stepped(torch.zeros(0, 3), scale=scale, bits=4)
    z = fake_quantize_clipped(torch.zeros(0, 3), alpha=alpha, steps_per_range=7.0, bits=4)
    (y.sum() + z.sum()).backward()
    assert y.shape == z.shape == (0, 3) and scale.grad == 0 and alpha.grad == 0
