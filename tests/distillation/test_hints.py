"""Hints: against plain loops over cameras, cells and channels, and in half precision."""

from __future__ import annotations

import pytest
import torch

from qdbev.distillation.hints import hint_loss, image_hint_loss


def _pair(*shape, seed=0):
    return torch.randn(2, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _looped(student, teacher):
    """Sum of squares by a walk over every number, over their count."""
    squares = [(s - t) ** 2 for s, t in zip(student.flatten().tolist(), teacher.flatten().tolist(), strict=True)]
    return sum(squares) / len(squares)


def test_bev_hints_agree_with_loops_over_cells():
    student, teacher = _pair(2, 5, 3)
    total = 0.0
    for b in range(2):
        for i in range(5):
            for c in range(3):
                total += (float(student[b, i, c]) - float(teacher[b, i, c])) ** 2
    assert float(hint_loss(student, teacher=teacher)) == pytest.approx(total / 30, rel=1e-12)


def test_image_hints_are_the_mean_over_levels_of_different_size():
    levels = [_pair(2, 3, 4, 2, 5, seed=1), _pair(2, 3, 4, 1, 2, seed=2)]
    loss = image_hint_loss([s for s, _ in levels], teacher_image=[t for _, t in levels])
    assert float(loss) == pytest.approx(sum(_looped(s, t) for s, t in levels) / 2, rel=1e-12)


def test_gradient_pulls_the_student_alone():
    student, teacher = (features.requires_grad_() for features in _pair(2, 3).unbind())
    hint_loss(student, teacher=teacher).backward()
    assert teacher.grad is None
    torch.testing.assert_close(student.grad, 2 * (student - teacher).detach() / 6)


def test_half_precision_is_compared_in_single():
    student, teacher = torch.full((3,), 300.0).half(), torch.full((3,), -300.0).half()
    assert float(hint_loss(student, teacher=teacher)) == 360_000.0  # beyond float16


def test_refuses_other_shapes():
    with pytest.raises(ValueError, match="expected one shape"):
        hint_loss(torch.zeros(2, 3), teacher=torch.zeros(3, 2))
    with pytest.raises(ValueError, match="1 levels of the student, 2 of the teacher"):
        image_hint_loss([torch.zeros(1)], teacher_image=[torch.zeros(1)] * 2)
