"""Element-wise divergence of two feature tensors read as logits (softmax with temperature: QD-BEV Eq. 2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

Pointwise = Literal["kl", "generalised_kl"]


def elementwise_divergence(
    student: Tensor, *, teacher: Tensor, temperature: float, dims: Sequence[int], pointwise: Pointwise = "kl"
) -> Tensor:
    """Give the terms of KL(teacher, student) before any sum.

    With p and q the softmax of teacher / temperature and student / temperature over ``dims``, "kl" gives
    p * (log p - log q) and "generalised_kl" gives p * (log p - log q) - p + q. Both have the same sum over ``dims``;
    only the second is non-negative in each place, and only its minimum stays at q = p when places are weighted.
    No gradient flows to the teacher. Half-precision input is computed in float32.

    >>> terms = elementwise_divergence(torch.zeros(2), teacher=torch.tensor([0.0, 2.0]), temperature=2.0, dims=[0])
    >>> [round(float(term), 4) for term in terms]
    [-0.1668, 0.2777]

    Args:
        student: Features, any shape.
        teacher: Features, same shape.
        temperature: Positive.
        dims: Dimensions one distribution extends over.
        pointwise: Which terms.

    Returns:
        Terms, the features' shape.

    Raises:
        ValueError: Shapes differ, temperature is not positive, or the name of the terms is unknown.
    """
    _check(student, teacher=teacher, temperature=temperature, pointwise=pointwise)
    teacher_log = _log_softmax(teacher.detach(), temperature=temperature, dims=dims)
    student_log = _log_softmax(student, temperature=temperature, dims=dims)
    teacher_share = teacher_log.exp()
    terms = teacher_share * (teacher_log - student_log)
    return terms if pointwise == "kl" else terms - teacher_share + student_log.exp()


def paired_levels(
    student_image: Tensor | Sequence[Tensor], *, teacher_image: Tensor | Sequence[Tensor]
) -> list[tuple[Tensor, Tensor]]:
    """Pair the levels of two feature pyramids; a tensor is one level.

    Raises:
        ValueError: Different numbers of levels, or none.
    """
    students = [student_image] if isinstance(student_image, Tensor) else list(student_image)
    teachers = [teacher_image] if isinstance(teacher_image, Tensor) else list(teacher_image)
    if len(students) != len(teachers) or not students:
        raise ValueError(f"{len(students)} levels of the student, {len(teachers)} of the teacher: expected as many")
    return list(zip(students, teachers, strict=True))


def _log_softmax(features: Tensor, *, temperature: float, dims: Sequence[int]) -> Tensor:
    wide = features.float() if features.dtype in (torch.float16, torch.bfloat16) else features
    logits = wide / temperature
    return logits - torch.logsumexp(logits, dim=list(dims), keepdim=True)


def _check(student: Tensor, *, teacher: Tensor, temperature: float, pointwise: str) -> None:
    if student.shape != teacher.shape:
        raise ValueError(
            f"features {tuple(student.shape)} of the student, {tuple(teacher.shape)} of the teacher: expected one shape"
        )
    if not temperature > 0.0:
        raise ValueError(f"temperature {temperature}: expected a positive number")
    if pointwise not in get_args(Pointwise):
        raise ValueError(f"pointwise {pointwise!r}: expected one of {', '.join(get_args(Pointwise))}")
