"""View-guided distillation (QD-BEV, Zhang et al., ICCV 2023), Eq. 2 to 6, with every reading of them switchable.

    Eq. 2  phi_tau(x_i) = exp(x_i / tau) / sum_j exp(x_j / tau)
    Eq. 3  L_img[b, n] = tau^2 / (W H C) * KL(phi(F_img^T), phi(F_img^S)), one number per camera
    Eq. 4  L_bev[b, i] = tau^2 / C       * KL(phi(F_bev^T), phi(F_bev^S)), one number per BEV cell
    Eq. 5  Lhat_img[b, n, i] = L_img[b, n] * M_bev[b, n, i]
    Eq. 6  L_vgd = 1/B sum_b sum_n sum_i Lhat_img[b, n, i] * L_bev[b, i]

What the paper leaves open (the first value is the default):

    switch       value           meaning and source
    image_axis   spatial         a distribution over the H*W places, per channel: channel-wise distillation (Shu et al.
                                 2021), which the paper cites for this loss and names in its Fig. 5
                 channel         over the C channels, per place: "element-wise" KL (Fig. 2)
                 everything      over C*H*W, per camera: "flattened image features" (Sec. 3.3.1) to the letter
    bev_axis     channel         over the C channels, per cell: "KL divergence for each point", result [Q, 1]
                                 (Sec. 3.3.2); the only reading in which each cell's value is a divergence, so >= 0
                 spatial         over the Q cells, per channel, as in the channel-wise loss; with "kl" 16 to 41 % of the
                                 cells were below zero in a trial, and weighted cells pull the student off the teacher
    pointwise    kl              p log(p / q), the paper's
                 generalised_kl  p log(p / q) - p + q: same sum, >= 0 in each place; the remedy for bev_axis="spatial"
    normaliser   paper           1 / (W H C) and 1 / C as in Eq. 3 and 4; L_vgd is then about 1e-7 and needs a weight
                 cwd_sum         divide by the number of distributions only, as channel-wise distillation does: image
                                 1 / C (spatial), 1 / (W H) (channel), 1 (everything); BEV 1 (channel), 1 / C (spatial)
    batch        per_sample      Eq. 5 and 6 within each sample, then the mean over the batch
                 paper_literal   1 / B within Eq. 3 and 4 and the mask averaged over the batch, then Eq. 5 and 6; equal
                                 at B = 1, which the paper used for its small and base models
    mask         mean            mean over the points of a pillar: 0, 1/4, ... 1 (Sec. 3.3.3)
                 any             1 where any point of the pillar is seen
    combine      product         Eq. 6
                 additive        sum_n L_img + sum_i L_bev; ablation
                 image_only      sum_n L_img; one-sided ablation
                 bev_only        sum_i L_bev; one-sided ablation
    detach       None            gradients through both factors: dL = L_img dL_bev + L_bev dL_img
                 image, bev      that factor only weighs the other; each factor's size gates the other's gradient
    levels       -               several FPN levels: mean of L_img over the levels, per camera (paper silent)

Only the current frame is distilled; teacher and student each roll their own history. No weight on L_vgd is given in the
paper: see ``weight.py``.

Shapes: B batch, N cameras, C channels, H W image features, Q BEV cells, D points per pillar.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from qdbev.distillation.divergence import Pointwise, elementwise_divergence, paired_levels

ImageAxis = Literal["spatial", "channel", "everything"]
BevAxis = Literal["channel", "spatial"]
Normaliser = Literal["paper", "cwd_sum"]
Batch = Literal["per_sample", "paper_literal"]
Mask = Literal["mean", "any"]
Combine = Literal["product", "additive", "image_only", "bev_only"]
Detach = Literal["image", "bev"]

_SIDES = {
    "product": ("image", "bev", "mask"),
    "additive": ("image", "bev"),
    "image_only": ("image",),
    "bev_only": ("bev",),
}
_IMAGE_DIMS = {"spatial": (3, 4), "channel": (2,), "everything": (2, 3, 4)}
_BEV_DIMS = {"channel": (2,), "spatial": (1,)}


def image_divergence(
    student_BNCHW: Tensor,
    *,
    teacher_BNCHW: Tensor,
    temperature: float = 1.0,
    axis: ImageAxis = "spatial",
    pointwise: Pointwise = "kl",
    normaliser: Normaliser = "paper",
) -> Tensor:
    """Compute Eq. 3, without its 1 / B: one number per sample and camera.

    Args:
        student_BNCHW: Neck output of the student, one level.
        teacher_BNCHW: The same of the teacher.
        temperature: Tau.
        axis: See the table above.
        pointwise: See the table above.
        normaliser: See the table above.

    Returns:
        Divergence (B, N).

    Raises:
        ValueError: Shapes or a switch's value.
    """
    _check_choice("image_axis", axis, ImageAxis)
    _check_choice("normaliser", normaliser, Normaliser)
    if student_BNCHW.dim() != 5:
        raise ValueError(f"image features {tuple(student_BNCHW.shape)}: expected (B, N, C, H, W)")
    terms = elementwise_divergence(
        student_BNCHW, teacher=teacher_BNCHW, temperature=temperature, dims=_IMAGE_DIMS[axis], pointwise=pointwise
    )
    channels, places = student_BNCHW.shape[2], student_BNCHW.shape[3] * student_BNCHW.shape[4]
    divisors = {"spatial": channels, "channel": places, "everything": 1}
    divisor = channels * places if normaliser == "paper" else divisors[axis]
    return terms.sum(dim=(2, 3, 4)) * (temperature**2 / divisor)


def bev_divergence(
    student_BQC: Tensor,
    *,
    teacher_BQC: Tensor,
    temperature: float = 1.0,
    axis: BevAxis = "channel",
    pointwise: Pointwise = "kl",
    normaliser: Normaliser = "paper",
) -> Tensor:
    """Compute Eq. 4, without its 1 / B: one number per sample and BEV cell.

    Args:
        student_BQC: Encoder output of the student.
        teacher_BQC: The same of the teacher.
        temperature: Tau.
        axis: See the table above.
        pointwise: See the table above.
        normaliser: See the table above.

    Returns:
        Divergence (B, Q).

    Raises:
        ValueError: Shapes or a switch's value.
    """
    _check_choice("bev_axis", axis, BevAxis)
    _check_choice("normaliser", normaliser, Normaliser)
    if student_BQC.dim() != 3:
        raise ValueError(f"BEV features {tuple(student_BQC.shape)}: expected (B, Q, C)")
    terms = elementwise_divergence(
        student_BQC, teacher=teacher_BQC, temperature=temperature, dims=_BEV_DIMS[axis], pointwise=pointwise
    )
    divisor = 1 if normaliser == "cwd_sum" and axis == "channel" else student_BQC.shape[2]
    return terms.sum(dim=2) * (temperature**2 / divisor)


def view_mask(bev_mask_BNQD: Tensor, *, mask: Mask = "mean") -> Tensor:
    """Flatten the binary view mask along the pillar (Sec. 3.3.3).

    >>> view_mask(torch.tensor([[[[1, 0, 0, 0], [1, 1, 1, 1]]]])).tolist()
    [[[0.25, 1.0]]]

    Args:
        bev_mask_BNQD: True or 1 where the point of the pillar is seen by the camera.
        mask: See the table above.

    Returns:
        Mask (B, N, Q) in [0, 1], float32.

    Raises:
        ValueError: Shape or the switch's value.
    """
    _check_choice("mask", mask, Mask)
    if bev_mask_BNQD.dim() != 4:
        raise ValueError(f"view mask {tuple(bev_mask_BNQD.shape)}: expected (B, N, Q, D)")
    seen = bev_mask_BNQD.float()
    return seen.mean(dim=3) if mask == "mean" else (seen > 0).any(dim=3).float()


def spread_over_bev(image_BN: Tensor, *, mask_BNQ: Tensor) -> Tensor:
    """Spread each camera's divergence over the BEV cells it sees, Eq. 5.

    >>> spread_over_bev(torch.tensor([[2.0, 3.0]]), mask_BNQ=torch.tensor([[[1.0, 0.5], [0.0, 1.0]]])).tolist()
    [[[2.0, 1.0], [0.0, 3.0]]]

    Args:
        image_BN: Divergence per camera.
        mask_BNQ: Mask in [0, 1].

    Returns:
        Divergence (B, N, Q).
    """
    return image_BN.unsqueeze(2) * mask_BNQ


def view_guided_loss(
    student_image: Tensor | Sequence[Tensor] | None,
    *,
    teacher_image: Tensor | Sequence[Tensor] | None,
    student_bev: Tensor | None,
    teacher_bev: Tensor | None,
    bev_mask_BNQD: Tensor | None,
    temperature: float = 1.0,
    image_axis: ImageAxis = "spatial",
    bev_axis: BevAxis = "channel",
    pointwise: Pointwise = "kl",
    normaliser: Normaliser = "paper",
    batch: Batch = "per_sample",
    mask: Mask = "mean",
    combine: Combine = "product",
    detach: Detach | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute the view-guided distillation loss, Eq. 6.

    Args:
        student_image: Neck output (B, N, C, H, W), or a sequence of levels; None where ``combine`` does without.
        teacher_image: The same of the teacher; no gradient flows to it.
        student_bev: Encoder output (B, Q, C); None where ``combine`` does without.
        teacher_bev: The same of the teacher.
        bev_mask_BNQD: View mask, which the product alone needs; BEVFormer computes it as (N, B, Q, D): transpose it.
        temperature: Tau.
        image_axis: See the table above.
        bev_axis: See the table above.
        pointwise: See the table above.
        normaliser: See the table above.
        batch: See the table above.
        mask: See the table above.
        combine: See the table above.
        detach: See the table above.

    Returns:
        The loss, and for the curve (detached): ``vgd``, and of what was given the means ``vgd_image`` of L_img and
        ``vgd_bev`` of L_bev.

    Raises:
        ValueError: Shapes that do not fit each other, a switch's value, or None for what ``combine`` needs.
    """
    _check_switches(batch=batch, combine=combine, detach=detach)
    image_BN = bev_BQ = mask_BNQ = None
    if student_image is not None and teacher_image is not None:
        image_BN = _levels_divergence(
            student_image,
            teacher_image=teacher_image,
            temperature=temperature,
            axis=image_axis,
            pointwise=pointwise,
            normaliser=normaliser,
        )
    if student_bev is not None and teacher_bev is not None:
        bev_BQ = bev_divergence(
            student_bev,
            teacher_BQC=teacher_bev,
            temperature=temperature,
            axis=bev_axis,
            pointwise=pointwise,
            normaliser=normaliser,
        )
    if bev_mask_BNQD is not None:
        mask_BNQ = view_mask(bev_mask_BNQD, mask=mask)
        mask_BNQ = mask_BNQ if bev_BQ is None else mask_BNQ.to(bev_BQ.dtype)
    _check_fit(image_BN, bev_BQ=bev_BQ, mask_BNQ=mask_BNQ, combine=combine)
    loss = _combined(image_BN, bev_BQ=bev_BQ, mask_BNQ=mask_BNQ, batch=batch, combine=combine, detach=detach)
    means = {"vgd_image": image_BN, "vgd_bev": bev_BQ}
    return loss, {"vgd": loss.detach()} | {name: one.detach().mean() for name, one in means.items() if one is not None}


def _levels_divergence(
    student_image: Tensor | Sequence[Tensor],
    *,
    teacher_image: Tensor | Sequence[Tensor],
    temperature: float,
    axis: ImageAxis,
    pointwise: Pointwise,
    normaliser: Normaliser,
) -> Tensor:
    levels = [
        image_divergence(
            student,
            teacher_BNCHW=teacher,
            temperature=temperature,
            axis=axis,
            pointwise=pointwise,
            normaliser=normaliser,
        )
        for student, teacher in paired_levels(student_image, teacher_image=teacher_image)
    ]
    return torch.stack(levels).mean(dim=0)


def _combined(
    image_BN: Tensor | None,
    *,
    bev_BQ: Tensor | None,
    mask_BNQ: Tensor | None,
    batch: Batch,
    combine: Combine,
    detach: Detach | None,
) -> Tensor:
    if batch == "paper_literal":
        image_BN, bev_BQ, mask_BNQ = (
            None if tensor is None else tensor.mean(dim=0, keepdim=True) for tensor in (image_BN, bev_BQ, mask_BNQ)
        )
    if combine == "product" and image_BN is not None and bev_BQ is not None and mask_BNQ is not None:
        image_BN = image_BN.detach() if detach == "image" else image_BN
        bev_BQ = bev_BQ.detach() if detach == "bev" else bev_BQ
        guided_BNQ = spread_over_bev(image_BN, mask_BNQ=mask_BNQ) * bev_BQ.unsqueeze(1)
        return guided_BNQ.sum(dim=(1, 2)).mean()
    sides = {"image": image_BN, "bev": bev_BQ}
    side_B = [one.sum(dim=1) for name, one in sides.items() if one is not None and name in _SIDES[combine]]
    return torch.stack(side_B).sum(dim=0).mean()


def _check_fit(image_BN: Tensor | None, *, bev_BQ: Tensor | None, mask_BNQ: Tensor | None, combine: str) -> None:
    given = {"image": image_BN, "bev": bev_BQ, "mask": mask_BNQ}
    if lacking := [name for name in _SIDES[combine] if given[name] is None]:
        raise ValueError(f"combine={combine!r} needs {', '.join(_SIDES[combine])}: {' and '.join(lacking)} is missing")
    if image_BN is None or bev_BQ is None:
        return
    fits = len(image_BN) == len(bev_BQ)
    if mask_BNQ is not None:
        fits = fits and mask_BNQ.shape == (*image_BN.shape, bev_BQ.shape[1])
    if not fits:
        raise ValueError(
            f"view mask {None if mask_BNQ is None else tuple(mask_BNQ.shape)} for image divergence "
            f"{tuple(image_BN.shape)} and BEV divergence {tuple(bev_BQ.shape)}: expected (B, N, Q), (B, N) and (B, Q)"
        )


def _check_switches(*, batch: str, combine: str, detach: str | None) -> None:
    _check_choice("batch", batch, Batch)
    _check_choice("combine", combine, Combine)
    if detach is not None:
        _check_choice("detach", detach, Detach)
        if combine != "product":
            raise ValueError(f"detach={detach!r} has no meaning with combine={combine!r}: expected None")


def _check_choice(switch: str, value: str, choices: object) -> None:
    if value not in get_args(choices):
        raise ValueError(f"{switch} {value!r}: expected one of {', '.join(get_args(choices))}")
