"""The GPU kernels of deformable attention, on a GPU or by Triton's interpreter, against the torch form."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qdbev.ops import Rows
from qdbev.ops.deformable_attention import dense_form, triton_form
from tests.ops.test_deformable_attention import problem


def on(device: torch.device, arguments: tuple) -> tuple:
    value, shapes, rows, *floats = arguments
    moved = Rows(rows.image_R.to(device), rows.query_R.to(device), one_each=rows.one_each)
    return value.to(device), shapes, moved, *(each.to(device) for each in floats)


def with_gradients(form, arguments: tuple) -> list[Tensor]:
    """The result, and the gradients of value, references, offsets and weights."""
    value, shapes, rows, *floats = arguments
    leaves = [each.detach().requires_grad_() for each in (value, *floats)]
    out = form(leaves[0], shapes, rows, *leaves[1:])
    gradient = torch.arange(out.numel(), dtype=out.dtype, device=out.device).view_as(out).cos()
    return [each.cpu() for each in (out.detach(), *torch.autograd.grad(out, leaves, gradient))]


def assert_equal_forms(arguments: tuple, *, device: torch.device, tolerance: float) -> None:
    found, expected = with_gradients(triton_form, on(device, arguments)), with_gradients(dense_form, arguments)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=0)


@settings(max_examples=4)
@given(seed=st.integers(0, 10_000), height=st.integers(1, 4), width=st.integers(1, 4))
def test_results_and_gradients_are_those_of_the_torch_form(triton_device, seed, height, width):
    arguments = problem(seed, shapes=[(height, width), (2, 3)])
    assert_equal_forms(arguments, device=triton_device, tolerance=1e-10)


def test_single_precision_agrees_to_a_ten_thousandth(triton_device):
    arguments = problem(1, shapes=[(7, 9), (4, 5)], dtype=torch.float32)
    assert_equal_forms(arguments, device=triton_device, tolerance=1e-4)


@pytest.mark.parametrize("images", [1, 3])
def test_a_row_for_each_query_needs_no_atomic_sums(triton_device, images):
    """More rows than one program holds, references shared by points, channels that are no power of two."""
    generator = torch.Generator().manual_seed(images)
    queries, shapes = 70, [(3, 5)]

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    rows = Rows.own_image(images=images, queries=queries, device=torch.device("cpu"))
    assert rows.one_each
    references, offsets = draw(images * queries, 1, 1, 2), draw(images * queries, 2, 1, 2, 2) * 4 - 2
    arguments = (draw(images, 15, 2, 24), shapes, rows, references, offsets, draw(images * queries, 2, 1, 2))
    assert_equal_forms(arguments, device=triton_device, tolerance=1e-10)


def test_points_far_outside_and_lists_without_a_row_give_zeros(triton_device):
    value, shapes, rows, references, offsets, weights = on(triton_device, problem(0, shapes=[(3, 4)]))
    assert triton_form(value, shapes, rows, references + 1e9, offsets, weights).abs().max() == 0
    assert triton_form(value, shapes, rows, references - 1e9, offsets, weights).abs().max() == 0
    none = Rows(rows.image_R[:0], rows.query_R[:0])
    out = triton_form(value, shapes, none, references[:0], offsets, weights)
    assert out.shape == (3, 10)
    assert out.abs().sum() == 0


SEVERAL = {"HEADS": 8, "LEVELS": 4, "POINTS": 8, "CHANNELS": 32, "PADDED": 32, "ROWS": 16, "SHARED": True}
ALONE = {"HEADS": 1, "LEVELS": 1, "POINTS": 1, "CHANNELS": 24, "PADDED": 32, "ROWS": 16, "SHARED": False}
ALONE |= {"seats": 1, "places": 1, "tokens": 1}  # Triton makes constants of integers that are 1


def test_kernels_compile_for_gpus(compiled_for_gpus):
    kernels = []
    for known in (SEVERAL, ALONE):
        sizes = ["i32"] * (1 if "seats" in known else 4)
        inputs = ["*fp32", "*i32", "*i64", "*i64", *["*fp32"] * 3]
        kernels.append({"kernel": "_forward", "types": [*inputs, "*fp32", *sizes], "constants": known})
        types = ["*fp32", *inputs, *["*fp32"] * 4, *sizes]
        kernels.append({"kernel": "_backward", "types": types, "constants": {**known, "TO_REFERENCES": True}})
    made = compiled_for_gpus("qdbev.ops.deformable_attention_triton", kernels)
    assert made == [(kernel["kernel"], capability) for kernel in kernels for capability in (80, 90)]
