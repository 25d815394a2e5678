"""Frustum pooling: every form against the definition, values and gradients; Triton's on a GPU or by its interpreter."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qdbev.ops.deformable_attention import has_cpu_kernel
from qdbev.ops.frustum_pooling import cpu_form, direct_form, graph_form, pool_frustum, torch_form, triton_form

FORMS = [
    pytest.param(cpu_form, marks=pytest.mark.skipif(not has_cpu_kernel(), reason="numba is not installed")),
    torch_form,
    graph_form,
]


def problem(
    seed: int, *, images: int = 2, depths: int = 5, pixels: int = 6, channels: int = 3, cells: int = 7
) -> tuple[Tensor, Tensor, Tensor, int]:
    """Depths, features, cells of which some are none, and the number of cells, the last of which stays empty."""
    generator = torch.Generator().manual_seed(seed)
    depth = torch.rand(images, depths, pixels, generator=generator, dtype=torch.float64)
    context = torch.randn(images, pixels, channels, generator=generator, dtype=torch.float64)
    return depth, context, torch.randint(-1, cells - 1, depth.shape, generator=generator), cells


def with_gradients(form, arguments: tuple, *, device: str = "cpu") -> list[Tensor]:
    depth, context, places, cells = arguments
    leaves = [each.detach().to(device).requires_grad_() for each in (depth, context)]
    out = form(*leaves, places.to(device), cells)
    gradient = torch.arange(out.numel(), dtype=out.dtype, device=device).view_as(out).cos()
    return [each.cpu() for each in (out.detach(), *torch.autograd.grad(out, leaves, gradient))]


@pytest.mark.parametrize("form", [direct_form, *FORMS])
def test_by_hand(form):
    depth = torch.tensor([[[0.25, 1.0], [0.5, 2.0]]])  # two depths of two pixels
    context = torch.tensor([[[8.0, 4.0], [1.0, 3.0]]])
    places = torch.tensor([[[0, 2], [2, -1]]])
    assert form(depth, context, places, 3).tolist() == [[2.0, 1.0], [0.0, 0.0], [5.0, 5.0]]


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=10)
@given(
    seed=st.integers(0, 9999), depths=st.integers(1, 5), pixels=st.integers(1, 7), channels=st.integers(1, 9),
    cells=st.integers(1, 9),
)  # fmt: skip
def test_equals_the_definition(form, seed, depths, pixels, channels, cells):
    arguments = problem(seed, depths=depths, pixels=pixels, channels=channels, cells=cells + 1)
    for ours, theirs in zip(with_gradients(form, arguments), with_gradients(direct_form, arguments), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=0)


@pytest.mark.parametrize("form", FORMS)
def test_gradients_are_those_of_finite_differences(form):
    depth, context, places, cells = problem(3)
    inputs = [depth.requires_grad_(), context.requires_grad_()]
    assert torch.autograd.gradcheck(lambda one, other: form(one, other, places, cells), inputs)


@pytest.mark.parametrize("form", FORMS)
def test_single_precision_agrees_to_a_hundred_thousandth(form):
    sizes = {"images": 6, "depths": 59, "pixels": 176, "channels": 64, "cells": 1024}
    depth, context, places, cells = problem(1, **sizes)  # type: ignore[arg-type]
    depth = depth.softmax(1)
    exact = direct_form(depth, context, places, cells)
    single = form(depth.float(), context.float(), places, cells)
    torch.testing.assert_close(single.double(), exact, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("channels", [1, 3, 24, 80])
def test_the_gpu_kernels_equal_the_definition(triton_device, channels):
    arguments = problem(channels, depths=37, pixels=3, channels=channels, cells=4)  # more points than one program holds
    ours = with_gradients(triton_form, arguments, device=triton_device.type)
    for one, other in zip(ours, with_gradients(direct_form, arguments), strict=True):
        torch.testing.assert_close(one, other, atol=1e-10, rtol=0)


def test_the_gpu_kernels_compile(compiled_for_gpus):
    constants = {"CHANNELS": 80, "PADDED": 128, "POINTS": 32}
    forward = ["*fp32", "*fp32", "*i64", "*i64", "*fp32", "i32", "i32"]
    backward = ["*fp32", "*fp32", "*fp32", "*i64", "*fp32", "*fp32", "i32", "i32"]
    kernels = [
        {"kernel": "_forward", "types": forward, "constants": constants},
        {"kernel": "_backward", "types": backward, "constants": constants},
    ]
    made = compiled_for_gpus("qdbev.ops.frustum_pooling_triton", kernels)
    assert made == [(kernel["kernel"], capability) for kernel in kernels for capability in (80, 90)]


def test_threads_do_not_change_the_result():
    arguments = problem(5, images=4, channels=6)
    results = []
    for threads in (1, 3):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        results.append(with_gradients(cpu_form, arguments))
        torch.set_num_threads(before)
    assert all(torch.equal(one, two) for one, two in zip(*results, strict=True))


def test_half_precision_is_summed_in_single():
    depth, context, places, cells = problem(2)
    half = pool_frustum(depth.bfloat16(), context.bfloat16(), cells_EDP=places, cells=cells)
    exact = pool_frustum(depth.bfloat16().float(), context.bfloat16().float(), cells_EDP=places, cells=cells)
    assert half.dtype == torch.bfloat16 and torch.equal(half, exact.bfloat16())


def test_shapes_alone_and_shapes_that_do_not_fit():
    depth, context, places, cells = problem(0)
    assert pool_frustum(depth.to("meta"), context.to("meta"), cells_EDP=places.to("meta"), cells=cells).shape == (7, 3)
    with pytest.raises(ValueError, match=r"cells \(2, 5, 6\) and context \(2, 3, 6\); expected \(E, D, P\), the same"):
        pool_frustum(depth, context.transpose(1, 2), cells_EDP=places, cells=cells)
