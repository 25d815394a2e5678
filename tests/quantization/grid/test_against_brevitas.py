"""LSQ, LSQ+ and PACT against brevitas, whose rounding and clamps autograd differentiates; times ``1 / sqrt(N p)``.

Brevitas' ``IntQuant`` asks after rounding what is clipped, as our log form does; its clamp before its rounding is the
printed form. A value exactly at a limit is inside for brevitas and clipped for us: such values are drawn nowhere.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from qdbev.quantization.grid.clipped_steps import fake_quantize_clipped, fake_quantize_stepped
from qdbev.quantization.grid.fake_quantize import fake_quantize_learned
from qdbev.quantization.grid.integers import align_scale, integer_limits, steps_per_range

pytest.importorskip("brevitas")
core = pytest.importorskip("brevitas.core.quant")
wrappers = pytest.importorskip("brevitas.core.function_wrapper")
straight_through = pytest.importorskip("brevitas.function.ops_ste")

BITS = st.integers(2, 8)
SEEDS = st.integers(0, 1000)
SHAPES = st.sampled_from([(60,), (3, 20), (2, 3, 4, 5)])
DTYPES = st.sampled_from([torch.float32, torch.float64])
AXES = st.sampled_from([None, 0, 1])


def drawn(seed: int, shape: tuple[int, ...], *, bits: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Integers with a fraction that is no tie, about a third of them outside the signed limits; upstream gradients."""
    generator = torch.Generator().manual_seed(seed)
    half = 2 ** (bits - 1)
    whole = torch.randint(-half - half // 2 - 1, half + half // 2 + 1, shape, generator=generator)
    part = torch.rand(shape, generator=generator) * 0.48 + 0.01
    sign = torch.randint(0, 2, shape, generator=generator) * 2 - 1
    return (whole + sign * part).to(dtype), torch.randn(shape, generator=generator).to(dtype)


def scales(step: float, shape: tuple[int, ...], *, axis: int | None, dtype: torch.dtype) -> Tensor:
    """One step, or one per channel."""
    one = torch.tensor(step, dtype=dtype)
    return one if axis is None else one * torch.linspace(0.5, 2.0, shape[axis], dtype=dtype)


def gradients(y: Tensor, *, upstream: Tensor, to: list[Tensor]) -> list[Tensor]:
    return [y.detach(), *torch.autograd.grad(y, to, upstream)]


def parameters(*values: Tensor) -> list[Tensor]:
    return [value.clone().requires_grad_() for value in values]


def by_int_quant(
    x: Tensor, *, scale: Tensor, bits: int, zero: Tensor | None = None, narrow: bool = False, unsigned: bool = False
) -> Tensor:
    """``IntQuant``: round, then clamp; both straight from brevitas."""
    quant = core.IntQuant(
        narrow_range=narrow,
        signed=not unsigned,
        input_view_impl=wrappers.Identity(),
        float_to_int_impl=wrappers.RoundSte(),
        tensor_clamp_impl=wrappers.TensorClamp(),
    )
    y: Tensor = quant(scale, torch.zeros(()) if zero is None else zero, torch.tensor(float(bits)), x)
    return y


def by_clamp_and_round(steps: Tensor, *, low: int, high: int) -> Tensor:
    """Clamp, then round: the order in which LSQ, LSQ+ and PACT print it."""
    limits = torch.tensor(float(low)), torch.tensor(float(high))
    integers: Tensor = wrappers.RoundSte()(wrappers.TensorClamp()(steps, *limits))
    return integers


def compare(ours: list[Tensor], theirs: list[Tensor], *, share: float) -> None:
    """Values, the gradients that pass (theirs are multiplied and divided by a step), and those of the parameters."""
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-6, atol=1e-6)
    assert torch.equal(ours[1] == 0, theirs[1] == 0)
    torch.testing.assert_close(ours[1], theirs[1], rtol=1e-6, atol=0.0)
    for one, other in zip(ours[2:], theirs[2:], strict=True):
        torch.testing.assert_close(one, other * share, rtol=1e-4, atol=1e-5, check_dtype=False)


def agreed(v: Tensor, *, low: int, high: int) -> Tensor:
    """The steps; those within half a step of a limit, where the two readings of the clip disagree, moved inside."""
    outside, inside = (v <= low - 0.5) | (v >= high + 0.5), (v > low) & (v < high)
    return torch.where(outside | inside, v, v.sign() * (v.abs() - 1))


@given(bits=BITS, seed=SEEDS, shape=SHAPES, axis=AXES, dtype=DTYPES, narrow=st.booleans())
def test_lsq_in_steps_is_int_quant(
    bits: int, seed: int, shape: tuple[int, ...], axis: int | None, dtype: torch.dtype, narrow: bool
) -> None:
    axis = axis if len(shape) > 1 else None
    low, high = integer_limits(bits, narrow_range=narrow)
    v, upstream = drawn(seed, shape, bits=bits, dtype=dtype)
    scale = scales(0.3, shape, axis=axis, dtype=dtype)
    x = agreed(v, low=low, high=high) * align_scale(scale, ndim=v.ndim, axis=axis)
    mine, other = parameters(x, scale), parameters(x, scale)
    y = fake_quantize_stepped(mine[0], scale=mine[1], bits=bits, axis=axis, narrow_range=narrow)
    z = by_int_quant(other[0], scale=align_scale(other[1], ndim=x.ndim, axis=axis), bits=bits, narrow=narrow)
    share = (x.numel() / scale.numel() * high) ** -0.5
    compare(gradients(y, upstream=upstream, to=mine), gradients(z, upstream=upstream, to=other), share=share)


@given(bits=BITS, seed=SEEDS, shape=SHAPES, axis=AXES, dtype=DTYPES, unsigned=st.booleans())
def test_lsq_as_printed_is_a_clamp_and_a_rounding(
    bits: int, seed: int, shape: tuple[int, ...], axis: int | None, dtype: torch.dtype, unsigned: bool
) -> None:
    axis, grid = axis if len(shape) > 1 else None, bits + unsigned
    low, high = integer_limits(grid)
    v, upstream = drawn(seed, shape, bits=grid, dtype=dtype)
    scale = scales(0.3, shape, axis=axis, dtype=dtype)
    x = v * align_scale(scale, ndim=v.ndim, axis=axis)
    mine, other = parameters(x, scale), parameters(x, scale)
    y = fake_quantize_stepped(mine[0], scale=mine[1], bits=grid, axis=axis, unsigned=unsigned)
    aligned = align_scale(other[1], ndim=x.ndim, axis=axis)
    z = by_clamp_and_round(other[0] / aligned, low=0 if unsigned else low, high=high) * aligned
    share = (x.numel() / scale.numel() * high) ** -0.5
    compare(gradients(y, upstream=upstream, to=mine), gradients(z, upstream=upstream, to=other), share=share)


@given(bits=BITS, seed=SEEDS, shape=SHAPES, offset=st.floats(-2, 2), dtype=DTYPES)
def test_lsq_plus_is_int_quant_with_a_zero_point_that_moves(
    bits: int, seed: int, shape: tuple[int, ...], offset: float, dtype: torch.dtype
) -> None:
    """Its zero point counts steps, ``z = -beta / S``, and autograd carries both parameters through it."""
    low, high = integer_limits(bits)
    v, upstream = drawn(seed, shape, bits=bits, dtype=dtype)
    scale, beta = torch.tensor(0.3, dtype=dtype), torch.tensor(offset, dtype=dtype)
    x = agreed(v, low=low, high=high) * scale + beta
    mine, other = parameters(x, scale, beta), parameters(x, scale, beta)
    y = fake_quantize_stepped(mine[0], scale=mine[1], offset=mine[2], bits=bits)
    z = by_int_quant(other[0], scale=other[1], zero=-other[2] / other[1], bits=bits)
    share = (x.numel() * high) ** -0.5
    compare(gradients(y, upstream=upstream, to=mine), gradients(z, upstream=upstream, to=other), share=share)


@given(bits=BITS, seed=SEEDS, shape=SHAPES, axis=AXES, dtype=DTYPES, unsigned=st.booleans())
def test_lsq_in_the_logarithm_is_int_quant_by_the_chain_rule(
    bits: int, seed: int, shape: tuple[int, ...], axis: int | None, dtype: torch.dtype, unsigned: bool
) -> None:
    """Also within half a step of a limit. Unsigned: what rounds to zero from below is clamped for us, not for them."""
    axis, grid = axis if len(shape) > 1 else None, bits + unsigned
    v, upstream = drawn(seed, shape, bits=grid, dtype=dtype)
    v = torch.where((v < 0) & (v > -0.5), -v, v) if unsigned else v
    log_scale = scales(0.3, shape, axis=axis, dtype=dtype).log()
    x = v * align_scale(log_scale.exp(), ndim=v.ndim, axis=axis)
    mine, other = parameters(x, log_scale), parameters(x, log_scale)
    y = fake_quantize_learned(mine[0], log_scale=mine[1], bits=grid, axis=axis, unsigned=unsigned)
    scale = other[1].exp()  # S dy/dS, by autograd
    z = by_int_quant(other[0], scale=align_scale(scale, ndim=x.ndim, axis=axis), bits=bits, unsigned=unsigned)
    share = (x.numel() / scale.numel() * integer_limits(grid)[1]) ** -0.5
    compare(gradients(y, upstream=upstream, to=mine), gradients(z, upstream=upstream, to=other), share=share)


@given(
    bits=BITS, seed=SEEDS, shape=SHAPES, dtype=DTYPES, unsigned=st.booleans(), rule=st.sampled_from(["qdbev", "hawq"])
)
def test_pact_is_a_clamp_whose_limit_learns(
    bits: int, seed: int, shape: tuple[int, ...], dtype: torch.dtype, unsigned: bool, rule: str
) -> None:
    """Then a rounding on a step without a gradient; by Eq. 1 the limit itself would round to one integer too many."""
    grid = bits + unsigned
    low, high = integer_limits(grid, narrow_range=rule == "hawq")
    steps = steps_per_range(grid, rule=rule)
    v, upstream = drawn(seed, shape, bits=grid, dtype=dtype)
    alpha = torch.tensor(1.5, dtype=dtype)
    x = v * alpha / steps
    mine, other = parameters(x, alpha), parameters(x, alpha)
    y = fake_quantize_clipped(
        mine[0], alpha=mine[1], steps_per_range=steps, bits=grid, narrow_range=rule == "hawq", unsigned=unsigned
    )
    floor, step = torch.zeros((), dtype=dtype) if unsigned else -other[1], other[1].detach() / steps
    integers = wrappers.RoundSte()(wrappers.TensorClamp()(other[0], floor, other[1]) / step)
    z = straight_through.tensor_clamp_ste(integers, torch.tensor(float(low)), torch.tensor(float(high))) * step
    compare(gradients(y, upstream=upstream, to=mine), gradients(z, upstream=upstream, to=other), share=1.0)
