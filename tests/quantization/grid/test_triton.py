"""The GPU kernels of fake quantization, on a GPU or by Triton's interpreter: the same bits as torch operations."""

from __future__ import annotations

import pytest
import torch

from qdbev.quantization.grid.fake_quantize import fake_quantize, fake_quantize_learned
from tests.quantization.grid.test_cpu import LAYOUTS, normal, torch_operations


@pytest.fixture(scope="module")
def kernels(triton_device):
    from qdbev.quantization.grid import triton as grid_triton

    return grid_triton


FITTING = [  # layouts whose channels lie in rows
    *[("contiguous", axis) for axis in (None, 0, 1)],
    *[("channels last", axis) for axis in (None, 0)],
    ("first two exchanged", None),
]
TYPES = [torch.float32, torch.float16]
if torch.cuda.is_available():
    TYPES.append(torch.bfloat16)  # Triton's interpreter cuts it off instead of rounding it


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("low", "high"), [(-8, 7), (0, 15), (-32768, 32767)])
@pytest.mark.parametrize(("layout", "axis"), FITTING)
def test_kernels_and_torch_operations_agree(triton_device, kernels, layout, axis, low, high, dtype):
    x = LAYOUTS[layout](normal(5, 4, 6, 7, seed=0)).to(dtype)
    gradient = LAYOUTS["contiguous"](normal(5, 4, 6, 7, seed=1)).to(dtype)
    log_scale = (torch.arange(1 if axis is None else x.shape[axis]) / 7 - 1).requires_grad_()
    bits, unsigned = high.bit_length() + 1, low == 0
    leaf = x.clone().requires_grad_()
    with torch_operations():
        y = fake_quantize_learned(leaf, log_scale=log_scale, bits=bits, axis=axis, unsigned=unsigned)
        y.backward(gradient)
    moved = {"scale": log_scale.detach().exp().to(triton_device), "axis": axis, "low": low, "high": high}
    ours = kernels.onto_grid(x.to(triton_device), rescale=True, **moved)
    grad_input, slope = kernels.grad_input_and_log_scale(gradient.to(triton_device), x.to(triton_device), **moved)
    straight = kernels.grad_input(gradient.to(triton_device), x.to(triton_device), **moved)
    assert torch.equal(ours.cpu(), y.detach())
    assert ours.stride() == y.stride()
    assert torch.equal(grad_input.cpu(), leaf.grad)
    assert torch.equal(straight.cpu(), leaf.grad)
    share = (x.numel() / log_scale.numel() * high) ** -0.5
    near = 2e-5 if dtype == torch.float32 else 2e-2  # torch operations round the terms of the sum to the half type
    torch.testing.assert_close(slope.cpu() * share, log_scale.grad, rtol=near, atol=near)


def test_halves_go_to_the_even_step_and_all_that_is_beyond_the_grid_to_its_end(triton_device, kernels):
    x = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5, 1e9, -1e9, float("inf"), 0.0], device=triton_device)
    steps = kernels.onto_grid(x, scale=torch.ones((), device=triton_device), axis=None, low=-8, high=7, rescale=False)
    assert steps.tolist() == [0, 2, 2, 0, -2, 7, -8, 7, 0]


def test_what_is_not_a_number_stays_one(triton_device, kernels):
    x = torch.tensor([float("nan"), 1.0], device=triton_device)
    y = kernels.onto_grid(x, scale=torch.ones((), device=triton_device), axis=None, low=-8, high=7, rescale=True)
    assert y.isnan().tolist() == [True, False]


@pytest.mark.parametrize("axis", [None, 0])
def test_sums_over_more_than_one_block(triton_device, kernels, axis):
    x, gradient = normal(3, 5000, seed=0), normal(3, 5000, seed=1)
    scale = torch.full((1 if axis is None else 3,), 0.3)
    where = {"axis": axis, "low": -8, "high": 7}
    _, slope = kernels.grad_input_and_log_scale(
        gradient.to(triton_device), x.to(triton_device), scale=scale.to(triton_device), **where
    )
    y = fake_quantize(x, scale=scale, bits=4, axis=axis).double()
    inside = (x / 0.3).round().clamp(-8, 7) == (x / 0.3).round()
    terms = gradient.double() * (y - x.double() * inside)
    expected = terms.sum().view(1) if axis is None else terms.sum(1)
    torch.testing.assert_close(slope.cpu().double(), expected, rtol=1e-4, atol=1e-4)


def test_in_place_writes_into_the_gradient(triton_device, kernels):
    x, gradient = normal(50, seed=0).to(triton_device), normal(50, seed=1).to(triton_device)
    where = {"scale": torch.tensor(0.1, device=triton_device), "axis": None, "low": -8, "high": 7}
    untouched = gradient.clone()
    apart = kernels.grad_input(gradient, x, **where)
    assert torch.equal(gradient, untouched)
    into = kernels.grad_input(gradient, x, in_place=True, **where)
    assert into.data_ptr() == gradient.data_ptr()
    assert torch.equal(apart, into)


def test_scales_that_do_not_fit_are_refused(triton_device, kernels):
    x = torch.ones(3, 2, device=triton_device)
    with pytest.raises(ValueError, match=r"2 scales do not fit a tensor of shape \(3, 2\) along axis 0"):
        kernels.onto_grid(x, scale=torch.ones(2), axis=0, low=-8, high=7, rescale=True)


def test_kernels_compile_for_gpus(compiled_for_gpus):
    kernels = []
    for values in ("*fp32", "*bf16"):
        onto = [values, values, "*fp32", *["i32"] * 3, *["fp32"] * 2]
        kernels.append({"kernel": "_onto_grid", "types": onto, "constants": {"RESCALE": True, "BLOCK": 1024}})
        grad = [*[values] * 3, "*fp32", "*fp32", *["i32"] * 3, *["fp32"] * 3]
        kernels.append({"kernel": "_grad_input", "types": grad, "constants": {"SUMMED": True, "BLOCK": 1024}})
    made = compiled_for_gpus("qdbev.quantization.grid.triton", kernels)
    assert made == [(kernel["kernel"], capability) for kernel in kernels for capability in (80, 90)]
