"""Eq. 1 by hand, the limits, and the laws of rounding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qdbev.quantization.grid.clipped_steps import fake_quantize_stepped
from qdbev.quantization.grid.fake_quantize import fake_quantize_learned
from qdbev.quantization.grid.integers import (
    align_scale,
    dequantize,
    integer_limits,
    quantize_int,
    range_of_scale,
    scale_of_range,
)

BITS = st.integers(2, 16)
RULES = st.sampled_from(["qdbev", "hawq"])


def test_equation_1_by_hand_at_four_bits() -> None:
    # r_max = 3: S = 2 * 3 / 15 = 0.4; r / S = 7.5, -7.5, 1.25, -1.0, 0.5, 1.5 -> half to even, clamped to [-8, 7]
    scale = scale_of_range(torch.tensor(3.0), bits=4)
    assert scale.item() == pytest.approx(0.4)
    values = torch.tensor([3.0, -3.0, 0.5, -0.4, 0.19, 0.21])
    assert quantize_int(values, scale=scale, bits=4).tolist() == [7, -8, 1, -1, 0, 1]


def test_equation_1_by_hand_at_six_bits() -> None:
    # r_max = 31.5: S = 63 / 63 = 1, so the integers are the rounded values, clamped to [-32, 31]
    scale = scale_of_range(torch.tensor(31.5), bits=6)
    assert scale.item() == 1.0
    assert quantize_int(torch.tensor([31.5, -31.5, 0.5, 1.5, 2.5, -40.0]), scale=scale, bits=6).tolist() == [
        31, -32, 0, 2, 2, -32,
    ]  # fmt: skip


def test_hawq_scale_by_hand() -> None:
    # S = 14 / (2^3 - 1) = 2: both ends of the range are on the grid, so nothing is clipped
    scale = scale_of_range(torch.tensor(14.0), bits=4, rule="hawq")
    assert scale.item() == 2.0
    assert quantize_int(torch.tensor([14.0, -14.0, -16.0, -18.0]), scale=scale, bits=4).tolist() == [7, -7, -8, -8]


def test_narrow_range_leaves_out_the_lowest_integer() -> None:
    values = torch.tensor([-15.0, -100.0, 100.0])
    assert quantize_int(values, scale=torch.tensor(2.0), bits=4, narrow_range=True).tolist() == [-7, -7, 7]


@given(bits=BITS)
def test_limits_hold_two_to_the_k_integers(bits: int) -> None:
    low, high = integer_limits(bits)
    assert high - low + 1 == 2**bits and low == -high - 1
    assert integer_limits(bits, narrow_range=True) == (-high, high)


@given(bits=BITS, rule=RULES, largest=st.floats(1e-20, 1e20))
def test_scale_and_range_are_inverse(bits: int, rule: str, largest: float) -> None:
    scale = scale_of_range(torch.tensor(largest), bits=bits, rule=rule)
    assert range_of_scale(scale, bits=bits, rule=rule).item() == pytest.approx(largest, rel=1e-6)


@given(bits=st.integers(2, 8), rule=RULES, values=st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=30))
def test_integers_equal_an_independent_formula(bits: int, rule: str, values: list[float]) -> None:
    x = np.array(values, dtype=np.float32)
    steps = (2**bits - 1) / 2 if rule == "qdbev" else 2 ** (bits - 1) - 1
    scale = np.float32(np.abs(x).max()) / np.float32(steps)
    scale = scale if scale >= np.finfo(np.float32).tiny else np.float32(1.0)
    expected = np.clip(np.rint(x / scale), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    tensor = torch.tensor(x)
    ours = quantize_int(tensor, scale=scale_of_range(tensor.abs().max(), bits=bits, rule=rule), bits=bits)
    assert ours.tolist() == expected.astype(int).tolist()


@given(bits=st.integers(2, 8), scale=st.floats(1e-3, 1e3), axis=st.sampled_from([0, 1, 2, -1]))
def test_the_grid_is_a_fixed_point(bits: int, scale: float, axis: int) -> None:
    low, high = integer_limits(bits)
    integers = torch.randint(low, high + 1, (3, 4, 5), generator=torch.Generator().manual_seed(0))
    scales = scale * torch.arange(1, integers.shape[axis] + 1)
    back = quantize_int(dequantize(integers, scale=scales, axis=axis), scale=scales, bits=bits, axis=axis)
    assert torch.equal(back.long(), integers)


def test_a_dead_channel_is_safe() -> None:
    weight = torch.tensor([[0.0, 0.0], [3.0, -1.5]])
    scale = scale_of_range(weight.abs().amax(1), bits=4)
    integers = quantize_int(weight, scale=scale, bits=4, axis=0)
    assert scale.tolist() == pytest.approx([1.0, 0.4]) and integers[0].tolist() == [0, 0]
    assert torch.isfinite(dequantize(integers, scale=scale, axis=0)).all()


def test_half_types_are_rounded_in_float32() -> None:
    # 200.5 is 200 or 201 in bfloat16; the quotient must not be rounded to eight bits a second time
    x = torch.tensor([1.0, 0.3, -0.77], dtype=torch.bfloat16)
    scale = torch.tensor(1.0 / 127.3)
    assert torch.equal(quantize_int(x, scale=scale, bits=8), quantize_int(x.float(), scale=scale, bits=8))


def test_types_of_the_integers() -> None:
    assert quantize_int(torch.ones(2), scale=torch.tensor(1.0), bits=8).dtype == torch.int8
    assert quantize_int(torch.ones(2), scale=torch.tensor(1.0), bits=9).dtype == torch.int16


def test_an_empty_tensor_stays_empty() -> None:
    assert quantize_int(torch.zeros(0, 3), scale=torch.tensor(1.0), bits=4).shape == (0, 3)


@pytest.mark.parametrize("bits", [1, 17, 0, -4, True, 4.0])
def test_impossible_bits_are_refused(bits: int) -> None:
    with pytest.raises(ValueError, match="2 to 16"):
        integer_limits(bits)


def test_an_unknown_rule_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="qdbev, hawq"):
        scale_of_range(torch.tensor(1.0), bits=4, rule="other")


def test_a_per_channel_scale_needs_its_axis() -> None:
    with pytest.raises(ValueError, match="channel axis"):
        align_scale(torch.ones(3), ndim=2, axis=None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_channel_axis_may_be_counted_from_the_end(dtype: torch.dtype) -> None:
    """Forward and every gradient, by the kernels (float32) and by torch operations (float64)."""
    outcomes = []
    for axis in (2, -1):
        x = torch.linspace(-3, 3, 30).view(2, 5, 3).to(dtype).requires_grad_()
        step, log_scale = torch.full((3,), 0.25).requires_grad_(), torch.full((3,), -1.5).requires_grad_()
        y = fake_quantize_stepped(x, scale=step, bits=4, axis=axis)
        z = fake_quantize_learned(x, log_scale=log_scale, bits=4, axis=axis)
        (y + z).square().sum().backward()
        outcomes.append([y, z, x.grad, step.grad, log_scale.grad])
    for first, second in zip(*outcomes, strict=True):
        assert first is not None and second is not None and torch.equal(first, second)
