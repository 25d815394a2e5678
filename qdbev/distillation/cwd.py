"""Channel-wise knowledge distillation (Shu et al., ICCV 2021): the one-sided losses of QD-BEV's Fig. 5.

    phi(y_c)_i = exp(y_ci / tau) / sum_j exp(y_cj / tau), a distribution over the places of each channel
    L = tau^2 / C * sum_c KL(phi(y^T_c), phi(y^S_c)), mean over images

Shapes: B batch, N cameras, C channels, H W image features, Q BEV cells, P places.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qdbev.distillation.divergence import elementwise_divergence, paired_levels


def channel_wise_loss(student_BCP: Tensor, *, teacher_BCP: Tensor, temperature: float = 1.0) -> Tensor:
    """Compute the channel-wise distillation loss.

    >>> student, teacher = torch.zeros(1, 1, 2), torch.tensor([[[0.0, 2.0]]])
    >>> round(float(channel_wise_loss(student, teacher_BCP=teacher, temperature=2.0)), 4)
    0.4438

    Args:
        student_BCP: Features, places flattened.
        teacher_BCP: The same of the teacher; no gradient flows to it.
        temperature: Tau.

    Returns:
        The loss, one number.

    Raises:
        ValueError: Shapes that differ or do not have three dimensions.
    """
    if student_BCP.dim() != 3:
        raise ValueError(f"features {tuple(student_BCP.shape)}: expected (B, C, places)")
    terms = elementwise_divergence(student_BCP, teacher=teacher_BCP, temperature=temperature, dims=(2,))
    return terms.sum(dim=(1, 2)).mean() * (temperature**2 / student_BCP.shape[1])


def image_channel_wise_loss(
    student_image: Tensor | Sequence[Tensor], *, teacher_image: Tensor | Sequence[Tensor], temperature: float = 1.0
) -> Tensor:
    """Compute the loss on neck outputs (B, N, C, H, W), cameras folded into the batch; mean over several levels."""
    losses = [
        channel_wise_loss(_folded(student), teacher_BCP=_folded(teacher), temperature=temperature)
        for student, teacher in paired_levels(student_image, teacher_image=teacher_image)
    ]
    return torch.stack(losses).mean()


def bev_channel_wise_loss(student_BQC: Tensor, *, teacher_BQC: Tensor, temperature: float = 1.0) -> Tensor:
    """Compute the loss on encoder outputs, a distribution over the Q cells of each channel."""
    return channel_wise_loss(
        student_BQC.transpose(1, 2), teacher_BCP=teacher_BQC.transpose(1, 2), temperature=temperature
    )


def _folded(image_BNCHW: Tensor) -> Tensor:
    if image_BNCHW.dim() != 5:
        raise ValueError(f"image features {tuple(image_BNCHW.shape)}: expected (B, N, C, H, W)")
    return image_BNCHW.flatten(0, 1).flatten(2)
