"""Deformable attention: every form against a plain loop over points and pixels."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qdbev.ops import Rows, deformable_attention, has_cpu_kernel
from qdbev.ops.deformable_attention import cpu_form, dense_form, listed_form, regular_form

FORMS = [
    pytest.param(cpu_form, marks=pytest.mark.skipif(not has_cpu_kernel(), reason="numba is not installed")),
    dense_form,
    listed_form,
]


def by_loop(value: Tensor, shapes: list, rows: Rows, references: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
    """The definition: a pixel at (i + 0.5) counts by its closeness in x times its closeness in y."""
    queries, heads, _, points = weights.shape
    out = torch.zeros(queries, heads, value.shape[3], dtype=value.dtype)
    for image, query, row in zip(rows.image_R.tolist(), rows.query_R.tolist(), range(len(rows.image_R)), strict=True):
        for head in range(heads):
            start = 0
            for level, (height, width) in enumerate(shapes):
                for point in range(points):
                    seat = references[row, min(level, references.shape[1] - 1), min(point, references.shape[2] - 1)]
                    x = float(seat[0]) * width + float(offsets[query, head, level, point, 0])
                    y = float(seat[1]) * height + float(offsets[query, head, level, point, 1])
                    for i in range(height):
                        for j in range(width):
                            near = max(0, 1 - abs(x - j - 0.5)) * max(0, 1 - abs(y - i - 0.5))
                            share = near * float(weights[query, head, level, point])
                            out[query, head] += share * value[image, start + i * width + j, head]
                start += height * width
    return out.flatten(1)


def problem(seed: int, *, shapes: list, dtype: torch.dtype = torch.float64) -> tuple:
    """Two images, three queries, five rows; the second query looks into both images, the third nowhere twice."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64).to(dtype)

    tokens = sum(height * width for height, width in shapes)
    rows = Rows(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 1, 0]))
    references = draw(4, 1, 3, 2) * 1.4 - 0.2
    offsets = draw(3, 2, len(shapes), 3, 2) * 6 - 3
    return draw(2, tokens, 2, 5), shapes, rows, references, offsets, draw(3, 2, len(shapes), 3)


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=8)
@given(seed=st.integers(0, 10_000), height=st.integers(1, 4), width=st.integers(1, 4))
def test_equals_the_definition(form, seed, height, width):
    arguments = problem(seed, shapes=[(height, width), (2, 3)])
    torch.testing.assert_close(form(*arguments), by_loop(*arguments), atol=1e-10, rtol=0)


@pytest.mark.parametrize("form", FORMS)
def test_one_point_in_the_middle_of_four_pixels_is_their_mean(form):
    value = torch.tensor([1.0, 2.0, 3.0, 6.0]).view(1, 4, 1, 1)
    rows = Rows.own_image(images=1, queries=1, device=value.device)
    out = form(
        value, [(2, 2)], rows, torch.tensor([[[[0.5, 0.5]]]]), torch.zeros(1, 1, 1, 1, 2), torch.ones(1, 1, 1, 1)
    )
    assert out.tolist() == [[3.0]]


@pytest.mark.parametrize("form", FORMS)
def test_offsets_are_pixels_and_outside_is_zero(form):
    value = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 4, 1, 1)
    rows = Rows.own_image(images=1, queries=3, device=value.device)
    references = torch.tensor([0.25, 0.25]).expand(3, 1, 1, 2)  # the centre of the first pixel
    offsets = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-0.5, 0.0]]).view(3, 1, 1, 1, 2)
    out = form(value, [(2, 2)], rows, references, offsets, torch.ones(3, 1, 1, 1))
    assert out.flatten().tolist() == [2.0, 3.0, 0.5]


@pytest.mark.parametrize("form", FORMS)
def test_points_behind_a_camera_give_nothing(form):
    value, shapes, rows, references, offsets, weights = problem(0, shapes=[(3, 4)], dtype=torch.float32)
    references = references + 1e9
    assert form(value, shapes, rows, references, offsets, weights).abs().max() == 0
    assert form(value, shapes, rows, -references, offsets, weights).abs().max() == 0


@pytest.mark.parametrize("form", FORMS)
def test_gradients_are_those_of_finite_differences(form):
    value, shapes, rows, references, offsets, weights = problem(3, shapes=[(3, 4), (2, 2)])
    inputs = [each.requires_grad_() for each in (value, references, offsets, weights)]

    def run(value, references, offsets, weights):
        return form(value, shapes, rows, references, offsets, weights)

    assert torch.autograd.gradcheck(run, inputs, atol=1e-6)


def test_threads_do_not_change_the_result():
    arguments = problem(5, shapes=[(3, 4)])
    leaves = [each.requires_grad_() for each in (arguments[0], *arguments[4:])]
    results = []
    for threads in (1, 2):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        out = cpu_form(*arguments)
        results.append([out, *torch.autograd.grad(out.square().sum(), leaves)])
        torch.set_num_threads(before)
    assert all(torch.equal(one, two) for one, two in zip(*results, strict=True))


def test_half_precision_values_are_sampled_at_exact_places():
    value, shapes, rows, references, offsets, weights = problem(1, shapes=[(3, 200)], dtype=torch.float32)
    exact = deformable_attention(
        value.bfloat16().float(), level_shapes=shapes, rows=rows, references_RLP2=references, offsets_JMLP2=offsets,
        weights_JMLP=weights,
    )  # fmt: skip
    half = deformable_attention(
        value.bfloat16(), level_shapes=shapes, rows=rows, references_RLP2=references, offsets_JMLP2=offsets,
        weights_JMLP=weights,
    )  # fmt: skip
    assert half.dtype == torch.bfloat16
    assert torch.equal(half, exact.bfloat16())


def test_a_wrong_number_of_tokens_is_refused():
    value, _, rows, references, offsets, weights = problem(0, shapes=[(3, 4)])
    with pytest.raises(ValueError, match=r"12 tokens, but the levels \[\(3, 5\)\] have 15"):
        deformable_attention(
            value, level_shapes=[(3, 5)], rows=rows, references_RLP2=references, offsets_JMLP2=offsets,
            weights_JMLP=weights,
        )  # fmt: skip


def test_an_empty_list_of_rows_gives_zeros():
    value, shapes, _, references, offsets, weights = problem(0, shapes=[(3, 4)])
    none = Rows(torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long))
    for form in (cpu_form, dense_form, listed_form):
        out = form(value, shapes, none, references[:0], offsets, weights)
        assert out.shape == (3, 10)
        assert math.isclose(float(out.abs().sum()), 0)


@pytest.mark.parametrize(("views", "levels", "points"), [(1, 2, 1), (3, 2, 3), (2, 1, 1)])
def test_the_form_of_exported_graphs_is_the_others(views, levels, points):
    generator = torch.Generator().manual_seed(0)
    samples, queries, shapes = 2, 6, [(5, 7), (3, 4)]
    double = {"generator": generator, "dtype": torch.float64}
    value = torch.randn(samples * views, 47, 2, 4, **double)
    rows = Rows.all_images(samples=samples, views=views, queries=queries, device=torch.device("cpu"))
    references = torch.rand(samples * views * queries, levels, points, 2, **double)
    offsets, weights = torch.randn(samples * queries, 2, 2, 3, 2, **double), torch.rand(12, 2, 2, 3, **double)
    arguments = (value, shapes, rows, references, offsets, weights)
    for form in (regular_form, listed_form):
        assert (form(*arguments) - dense_form(*arguments)).abs().max() < 1e-12
    alone = Rows.own_image(images=1, queries=6, device=torch.device("cpu"))
    arguments = (value[:1], shapes, alone, references[:6], offsets[:6], weights[:6])
    assert (listed_form(*arguments) - dense_form(*arguments)).abs().max() < 1e-12


def test_rows_of_maps_that_floats_cannot_count_are_refused():
    value, _, rows, references, offsets, weights = problem(0, shapes=[(3, 4)])
    with pytest.raises(ValueError, match="rows of pixels and heads cannot be counted in float32: at most 16777216"):
        listed_form(value[:, :1].expand(-1, 1 << 23, -1, -1), [(1 << 22, 2)], rows, references, offsets, weights)
