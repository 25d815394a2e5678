"""Element-wise divergence: against torch's own KL, and where half precision and large logits would go wrong."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from qdbev.distillation.divergence import elementwise_divergence, paired_levels


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), temperature=st.floats(0.5, 8.0), scale=st.floats(0.1, 20.0))
def test_agrees_with_torch_kl_div(seed, temperature, scale):
    features = torch.randn(2, 3, 5, 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale
    student, teacher = features
    expected = functional.kl_div(
        functional.log_softmax(student / temperature, dim=1),
        functional.softmax(teacher / temperature, dim=1),
        reduction="none",
    )
    terms = elementwise_divergence(student, teacher=teacher, temperature=temperature, dims=[1])
    torch.testing.assert_close(terms, expected, rtol=1e-9, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), scale=st.floats(0.1, 20.0))
def test_generalised_terms_have_the_same_sum_and_are_never_negative(seed, scale):
    features = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale
    student, teacher = features
    plain = elementwise_divergence(student, teacher=teacher, temperature=1.0, dims=[1])
    general = elementwise_divergence(student, teacher=teacher, temperature=1.0, dims=[1], pointwise="generalised_kl")
    torch.testing.assert_close(general.sum(1), plain.sum(1), rtol=1e-9, atol=1e-12)
    assert general.min() >= -1e-15


def test_half_precision_is_computed_in_single():
    student, teacher = torch.randn(2, 3, 500, generator=torch.Generator().manual_seed(0)).bfloat16()
    terms = elementwise_divergence(student, teacher=teacher, temperature=1.0, dims=[1])
    exact = elementwise_divergence(student.double(), teacher=teacher.double(), temperature=1.0, dims=[1])
    assert terms.dtype == torch.float32
    torch.testing.assert_close(terms.double(), exact, rtol=1e-4, atol=1e-9)


def test_extreme_logits_stay_finite_with_finite_gradients():
    student = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    teacher = torch.tensor([[-1e4, 1e4, 0.0]])
    terms = elementwise_divergence(student, teacher=teacher, temperature=1.0, dims=[1], pointwise="generalised_kl")
    terms.sum().backward()
    assert terms.isfinite().all() and student.grad.isfinite().all()
    assert terms.sum().item() == pytest.approx(2e4)


def test_no_gradient_reaches_the_teacher():
    student = torch.zeros(2, 3, requires_grad=True)
    teacher = torch.ones(2, 3, requires_grad=True)
    elementwise_divergence(student, teacher=teacher, temperature=1.0, dims=[0]).sum().backward()
    assert teacher.grad is None and student.grad is not None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"teacher": torch.zeros(2, 4)}, "expected one shape"),
        ({"temperature": 0.0}, "temperature 0.0"),
        ({"pointwise": "js"}, "pointwise 'js'"),
    ],
)
def test_refuses(change, message):
    arguments = {"teacher": torch.zeros(2, 3), "temperature": 1.0, "dims": [1], **change}
    with pytest.raises(ValueError, match=message):
        elementwise_divergence(torch.zeros(2, 3), **arguments)


def test_levels_are_paired_and_a_tensor_is_one_level():
    zero, one = torch.zeros(1), torch.ones(1)
    assert paired_levels(zero, teacher_image=one) == [(zero, one)]
    assert paired_levels([zero, one], teacher_image=(one, zero)) == [(zero, one), (one, zero)]
    with pytest.raises(ValueError, match="2 levels of the student, 1 of the teacher"):
        paired_levels([zero, one], teacher_image=one)
