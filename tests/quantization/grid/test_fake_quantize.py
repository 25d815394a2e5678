"""Agreement with torch's fake quantizer, the straight-through gradient, and the tie to the integers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qdbev.quantization.grid.fake_quantize import fake_quantize, fake_quantize_learned
from qdbev.quantization.grid.integers import dequantize, integer_limits, quantize_int, scale_of_range

SHAPES = st.lists(st.integers(1, 6), min_size=1, max_size=4)
BITS = st.integers(2, 8)


def normal(shape: list[int], *, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def away_from_ties(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Where the quotient is not within float error of a half."""
    quotient = x.double() / scale.double()
    return (quotient - quotient.floor() - 0.5).abs() > 1e-4


def test_by_hand() -> None:
    x = torch.tensor([3.0, -3.0, 0.5, -0.4, 0.19, 0.21])
    scale = scale_of_range(torch.tensor(3.0), bits=4)  # 0.4
    expected = [2.8, -3.2, 0.4, -0.4, 0.0, 0.4]
    assert fake_quantize(x, scale=scale, bits=4).tolist() == pytest.approx(expected)


@given(bits=BITS, shape=SHAPES, seed=st.integers(0, 1000), spread=st.floats(0.2, 5.0))
def test_per_tensor_agrees_with_torch_in_value_and_gradient(
    bits: int, shape: list[int], seed: int, spread: float
) -> None:
    low, high = integer_limits(bits)
    x = normal(shape, seed=seed) * spread
    scale = torch.tensor(0.037 * spread * 64 / 2**bits)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    mine = fake_quantize(ours, scale=scale, bits=bits)
    other = torch.fake_quantize_per_tensor_affine(theirs, scale, torch.tensor(0, dtype=torch.int32), low, high)
    gradient = normal(shape, seed=seed + 1)
    mine.backward(gradient)
    other.backward(gradient)
    sure = away_from_ties(x, scale)
    assert torch.equal(mine[sure], other[sure])
    assert ours.grad is not None and theirs.grad is not None and torch.equal(ours.grad[sure], theirs.grad[sure])


@given(bits=BITS, shape=SHAPES, seed=st.integers(0, 1000), data=st.data())
def test_per_channel_agrees_with_torch_in_value_and_gradient(
    bits: int, shape: list[int], seed: int, data: st.DataObject
) -> None:
    axis = data.draw(st.integers(0, len(shape) - 1))
    low, high = integer_limits(bits)
    x = normal(shape, seed=seed)
    scale = (0.6 + torch.arange(shape[axis])) / 2 ** (bits - 1)
    zero = torch.zeros(shape[axis], dtype=torch.int32)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    mine = fake_quantize(ours, scale=scale, bits=bits, axis=axis)
    other = torch.fake_quantize_per_channel_affine(theirs, scale, zero, axis, low, high)
    mine.sum().backward()
    other.sum().backward()
    sure = away_from_ties(x, scale.view([-1 if i == axis else 1 for i in range(len(shape))]))
    assert torch.equal(mine[sure], other[sure])
    assert ours.grad is not None and theirs.grad is not None and torch.equal(ours.grad[sure], theirs.grad[sure])


@pytest.mark.parametrize(("bits", "narrow"), [(2, False), (4, True), (7, False), (8, False), (8, True), (12, False)])
def test_gradient_passes_inside_the_clamp_and_stops_outside(bits: int, narrow: bool) -> None:
    low, high = integer_limits(bits, narrow_range=narrow)
    integers = [low - 1000, low - 1, low, 0, high, high + 1, high + 1000]
    x = torch.tensor(integers, dtype=torch.float32).requires_grad_()
    fake_quantize(x, scale=torch.tensor(1.0), bits=bits, narrow_range=narrow).backward(torch.full((7,), 3.0))
    assert x.grad is not None and x.grad.tolist() == [0.0, 0.0, 3.0, 3.0, 3.0, 0.0, 0.0]


@given(bits=st.integers(2, 16), seed=st.integers(0, 1000), narrow=st.booleans(), per_channel=st.booleans())
def test_equals_integers_times_scale(bits: int, seed: int, narrow: bool, per_channel: bool) -> None:
    x, axis = normal([5, 7], seed=seed), 1 if per_channel else None
    scale = scale_of_range(x.abs().amax(0) if per_channel else x.abs().max(), bits=bits)
    integers = quantize_int(x, scale=scale, bits=bits, axis=axis, narrow_range=narrow)
    expected = dequantize(integers, scale=scale, axis=axis)
    assert torch.equal(fake_quantize(x, scale=scale, bits=bits, axis=axis, narrow_range=narrow), expected)


@given(bits=BITS, seed=st.integers(0, 1000))
def test_quantizing_twice_is_quantizing_once(bits: int, seed: int) -> None:
    x = normal([40], seed=seed)
    scale = scale_of_range(x.abs().max(), bits=bits)
    once = fake_quantize(x, scale=scale, bits=bits)
    assert torch.equal(fake_quantize(once, scale=scale, bits=bits), once)


@given(bits=st.integers(3, 8), seed=st.integers(0, 1000))
def test_error_is_at_most_half_a_step_inside_the_clamp(bits: int, seed: int) -> None:
    x = normal([50], seed=seed).double()
    scale = scale_of_range(x.abs().max(), bits=bits).double()
    low, high = integer_limits(bits)
    inside = (x / scale >= low) & (x / scale <= high)
    error = (fake_quantize(x, scale=scale, bits=bits) - x).abs()
    assert (error[inside] <= scale / 2 * (1 + 1e-9)).all()
    assert (error <= scale * (1 + 1e-6)).all()  # +r_max lies half a step above the largest integer's own half


@settings(max_examples=25)
@given(bits=st.integers(2, 8), seed=st.integers(0, 100))
def test_bfloat16_is_float32_rounded_at_the_end(bits: int, seed: int) -> None:
    x = normal([64], seed=seed).to(torch.bfloat16)
    scale = scale_of_range(x.float().abs().max(), bits=bits)
    leaf = x.clone().requires_grad_()
    out = fake_quantize(leaf, scale=scale, bits=bits)
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, fake_quantize(x.float(), scale=scale, bits=bits).to(torch.bfloat16))
    out.sum().backward()
    assert leaf.grad is not None and leaf.grad.dtype == torch.bfloat16 and set(leaf.grad.tolist()) <= {0.0, 1.0}


def test_neither_input_nor_gradient_is_changed() -> None:
    x, gradient = torch.linspace(-9, 9, 30).requires_grad_(), torch.ones(30)
    before = x.detach().clone()
    fake_quantize(x, scale=torch.tensor(1.0), bits=4).backward(gradient)
    assert torch.equal(x.detach(), before) and torch.equal(gradient, torch.ones(30))


def test_backward_keeps_the_real_values_alone() -> None:
    saved: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(tensor)
        return tensor

    x = torch.randn(1000, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        fake_quantize(x, scale=torch.tensor(0.1), bits=6)
    assert [tensor.numel() for tensor in saved] == [1000, 1] and saved[0].data_ptr() == x.data_ptr()


def test_memory_format_survives() -> None:
    x = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last).requires_grad_()
    out = fake_quantize(x, scale=torch.tensor(0.1), bits=6)
    assert out.is_contiguous(memory_format=torch.channels_last)


def test_infinite_gradients_and_values() -> None:
    out = fake_quantize(torch.tensor([float("inf"), -float("inf"), float("nan")]), scale=torch.tensor(1.0), bits=4)
    assert out[:2].tolist() == [7.0, -8.0] and out[2].isnan()


@pytest.mark.parametrize("learned", [False, True])
def test_a_gradient_that_others_hold_is_not_written(learned: bool) -> None:
    """The sum hands one gradient to both its terms; only a layer's own gradient may be worked on in place."""
    x, other = torch.tensor([0.3, 40.0], requires_grad=True), torch.zeros(2, requires_grad=True)
    log_scale = torch.tensor(0.0, requires_grad=learned)
    if learned:
        y = fake_quantize_learned(x, log_scale=log_scale, bits=4)
    else:
        y = fake_quantize(x, scale=torch.tensor(1.0), bits=4)
    upstream = torch.tensor([2.0, 3.0])
    (y + other).backward(upstream)
    assert x.grad is not None and other.grad is not None
    assert x.grad.tolist() == [2.0, 0.0] and other.grad.tolist() == upstream.tolist() == [2.0, 3.0]
