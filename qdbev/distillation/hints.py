"""Hints of a teacher's features (FitNets, Romero et al., ICLR 2015, Eq. 3): the plain squared error.

    L = 1/2 || u_T - r(u_S) ||^2, here the mean over all elements and without the 1/2

The regressor r adapts a student of another width; the student here is the teacher quantized, their shapes agree, and r
is the identity.

Shapes: B batch, N cameras, C channels, H W image features, Q BEV cells.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qdbev.distillation.divergence import paired_levels


def hint_loss(student: Tensor, *, teacher: Tensor) -> Tensor:
    """Compute the mean squared error; half-precision input is compared in float32.

    >>> float(hint_loss(torch.tensor([1.0, 2.0]), teacher=torch.tensor([0.0, 5.0])))
    5.0

    Args:
        student: Features, any shape.
        teacher: Features, same shape; no gradient flows to them.

    Raises:
        ValueError: Shapes differ.
    """
    if student.shape != teacher.shape:
        raise ValueError(
            f"features {tuple(student.shape)} of the student, {tuple(teacher.shape)} of the teacher: expected one shape"
        )
    wide = torch.promote_types(student.dtype, torch.float32)
    return (student.to(wide) - teacher.detach().to(wide)).square().mean()


def image_hint_loss(student_image: Tensor | Sequence[Tensor], *, teacher_image: Tensor | Sequence[Tensor]) -> Tensor:
    """Compute the loss on neck outputs (B, N, C, H, W); mean over several levels, whatever their size."""
    pairs = paired_levels(student_image, teacher_image=teacher_image)
    return torch.stack([hint_loss(student, teacher=teacher) for student, teacher in pairs]).mean()
