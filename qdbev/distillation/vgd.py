"""View-guided distillation (QD-BEV, Zhang et al., ICCV 2023), Eq. 2 to 6, in every reading of them.

    Eq. 2  phi_tau(x_i) = exp(x_i / tau) / sum_j exp(x_j / tau)
    Eq. 3  L_img[b, n] = tau^2 / (W H C) * KL(phi(F_img^T), phi(F_img^S)), one number per camera
    Eq. 4  L_bev[b, i] = tau^2 / C       * KL(phi(F_bev^T), phi(F_bev^S)), one number per BEV cell
    Eq. 5  Lhat_img[b, n, i] = L_img[b, n] * M_bev[b, n, i]
    Eq. 6  L_vgd = 1/B sum_b sum_n sum_i Lhat_img[b, n, i] * L_bev[b, i]

What the paper leaves open is a field of ``Reading``. Not open: only the current frame is distilled, teacher and
student each roll their own history, and of several FPN levels a camera's L_img is the mean (the paper is silent). No
weight on L_vgd is given in the paper: see ``weight.py``.

Shapes: B batch, N cameras, C channels, H W image features, Q BEV cells, D points per pillar.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args, get_type_hints

import torch
from torch import Tensor

from qdbev.distillation.divergence import Pointwise, elementwise_divergence, paired_levels

_SIDES = {
    "product": ("image", "bev", "mask"),
    "additive": ("image", "bev"),
    "image_only": ("image",),
    "bev_only": ("bev",),
}
_IMAGE_DIMS = {"spatial": (3, 4), "channel": (2,), "everything": (2, 3, 4)}
_BEV_DIMS = {"channel": (2,), "spatial": (1,)}


@dataclass(frozen=True)
class Reading:
    """What Eq. 2 to 6 leave open; a field's first value is the default.

    Raises:
        ValueError: A value that its field does not have, or ``detach`` where nothing is multiplied.
    """

    temperature: float = 1.0
    """Tau of Eq. 2, by default 1; table 4 of the paper has 1 for tiny and small, 4 for base."""
    image_axis: Literal["spatial", "channel", "everything"] = "spatial"
    """What one distribution of image features extends over.

    - ``spatial``: the H W places of a channel, as in channel-wise distillation (Shu et al., ICCV 2021), which the paper
      cites for this loss, names in its Fig. 5, and shares the prefactor of.
    - ``channel``: the C channels of a place: "element-wise" KL (Fig. 2).
    - ``everything``: C, H and W of a camera: "flattened image features" (Sec. 3.3.1) to the letter.
    """
    bev_axis: Literal["channel", "spatial"] = "channel"
    """What one distribution of BEV features extends over.

    - ``channel``: the C channels of a cell: "KL divergence for each point", result [Q, 1] (Sec. 3.3.2); the only
      reading in which each cell's value is a divergence, so at least 0.
    - ``spatial``: the Q cells of a channel, as in channel-wise distillation; with ``kl`` 16 to 41 % of the cells were
      below zero in a trial, and such cells, weighted, pull the student off the teacher.
    """
    pointwise: Pointwise = "kl"
    """The term of one element, p the teacher's share and q the student's.

    - ``kl``: p log(p / q), the paper's.
    - ``generalised_kl``: p log(p / q) - p + q: the same sum, at least 0 in each place; the remedy for ``spatial`` BEV.
    """
    normaliser: Literal["paper", "cwd_sum"] = "paper"
    """What sums are divided by.

    - ``paper``: W H C and C, as Eq. 3 and 4 print; L_vgd is then about 1e-7 and needs a weight.
    - ``cwd_sum``: the number of distributions, as in channel-wise distillation: for images C (``spatial``), W H
      (``channel``) or 1 (``everything``), for BEV 1 (``channel``) or C (``spatial``).
    """
    batch: Literal["per_sample", "paper_literal"] = "per_sample"
    """Where the mean over the batch is taken.

    - ``per_sample``: after Eq. 5 and 6 within each sample.
    - ``paper_literal``: in Eq. 3 and 4, which print 1 / B, and of the mask, before Eq. 5 and 6; the same at B = 1,
      which the paper has for small and base.
    """
    mask: Literal["mean", "any"] = "mean"
    """How far a camera sees a cell, by the points of its pillar.

    - ``mean``: the share of points seen, 0, 1/4, ... 1 (Sec. 3.3.3).
    - ``any``: 1 where any point is seen.
    """
    combine: Literal["product", "additive", "image_only", "bev_only"] = "product"
    """How both losses become one.

    - ``product``: Eq. 6.
    - ``additive``: the sum of L_img over cameras and L_bev over cells; ablation.
    - ``image_only``: L_img over cameras; one-sided ablation.
    - ``bev_only``: L_bev over cells; one-sided ablation.
    """
    detach: Literal[None, "image", "bev"] = None
    """The factor of the product that only weighs the other. A factor's size gates the gradient of the other one.

    - ``None``: neither: dL = L_img dL_bev + L_bev dL_img.
    - ``image``: L_img carries no gradient.
    - ``bev``: L_bev carries no gradient.
    """

    def __post_init__(self) -> None:
        """Refuse what no switch has."""
        for switch, hint in get_type_hints(Reading).items():
            choices, value = get_args(hint), getattr(self, switch)
            if choices and value not in choices:
                raise ValueError(f"{switch} {value!r}: expected one of {', '.join(map(str, choices))}")
        if self.detach is not None and self.combine != "product":
            raise ValueError(f"detach={self.detach!r} has no meaning with combine={self.combine!r}: expected None")

    @property
    def sides(self) -> tuple[str, ...]:
        """What ``combine`` takes, of image, bev and mask."""
        return _SIDES[self.combine]


def image_divergence(student_BNCHW: Tensor, *, teacher_BNCHW: Tensor, reading: Reading = Reading()) -> Tensor:
    """Compute Eq. 3, without its 1 / B: one number per sample and camera.

    Args:
        student_BNCHW: Neck output of the student, one level.
        teacher_BNCHW: The same of the teacher.
        reading: Its temperature, ``image_axis``, ``pointwise`` and ``normaliser`` count.

    Returns:
        Divergence (B, N).

    Raises:
        ValueError: Shapes, or a temperature that is not positive.
    """
    if student_BNCHW.dim() != 5:
        raise ValueError(f"image features {tuple(student_BNCHW.shape)}: expected (B, N, C, H, W)")
    terms = _divergence_terms(
        student_BNCHW, teacher=teacher_BNCHW, dims=_IMAGE_DIMS[reading.image_axis], reading=reading
    )
    channels, places = student_BNCHW.shape[2], student_BNCHW.shape[3] * student_BNCHW.shape[4]
    distributions = {"spatial": channels, "channel": places, "everything": 1}
    divisor = channels * places if reading.normaliser == "paper" else distributions[reading.image_axis]
    return terms.sum(dim=(2, 3, 4)) * (reading.temperature**2 / divisor)


def bev_divergence(student_BQC: Tensor, *, teacher_BQC: Tensor, reading: Reading = Reading()) -> Tensor:
    """Compute Eq. 4, without its 1 / B: one number per sample and BEV cell.

    Args:
        student_BQC: Encoder output of the student.
        teacher_BQC: The same of the teacher.
        reading: Its temperature, ``bev_axis``, ``pointwise`` and ``normaliser`` count.

    Returns:
        Divergence (B, Q).

    Raises:
        ValueError: Shapes, or a temperature that is not positive.
    """
    if student_BQC.dim() != 3:
        raise ValueError(f"BEV features {tuple(student_BQC.shape)}: expected (B, Q, C)")
    terms = _divergence_terms(student_BQC, teacher=teacher_BQC, dims=_BEV_DIMS[reading.bev_axis], reading=reading)
    divisor = 1 if reading.normaliser == "cwd_sum" and reading.bev_axis == "channel" else student_BQC.shape[2]
    return terms.sum(dim=2) * (reading.temperature**2 / divisor)


def view_mask(bev_mask_BNQD: Tensor, *, reading: Reading = Reading()) -> Tensor:
    """Flatten the binary view mask along the pillar (Sec. 3.3.3).

    >>> view_mask(torch.tensor([[[[1, 0, 0, 0], [1, 1, 1, 1]]]])).tolist()
    [[[0.25, 1.0]]]

    Args:
        bev_mask_BNQD: True or 1 where the point of the pillar is seen by the camera.
        reading: Its ``mask`` counts.

    Returns:
        Mask (B, N, Q) in [0, 1], float32.

    Raises:
        ValueError: Shape.
    """
    if bev_mask_BNQD.dim() != 4:
        raise ValueError(f"view mask {tuple(bev_mask_BNQD.shape)}: expected (B, N, Q, D)")
    visible = bev_mask_BNQD.float()
    return visible.mean(dim=3) if reading.mask == "mean" else (visible > 0).any(dim=3).float()


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
    reading: Reading = Reading(),
) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute the view-guided distillation loss, Eq. 6.

    Args:
        student_image: Neck output (B, N, C, H, W), or a sequence of levels; None where the reading does without.
        teacher_image: The same of the teacher; no gradient flows to it.
        student_bev: Encoder output (B, Q, C); None where the reading does without.
        teacher_bev: The same of the teacher.
        bev_mask_BNQD: View mask, which the product alone needs; BEVFormer computes it as (N, B, Q, D): transpose it.
        reading: What the equations leave open.

    Returns:
        The loss, and for the curve (detached): ``vgd``, and of what was given the means ``vgd_image`` of L_img and
        ``vgd_bev`` of L_bev.

    Raises:
        ValueError: Shapes that do not fit each other, or None for what the reading needs.
    """
    image_BN = bev_BQ = mask_BNQ = None
    if student_image is not None and teacher_image is not None:
        image_BN = _levels_divergence(student_image, teacher_image=teacher_image, reading=reading)
    if student_bev is not None and teacher_bev is not None:
        bev_BQ = bev_divergence(student_bev, teacher_BQC=teacher_bev, reading=reading)
    if bev_mask_BNQD is not None:
        mask_BNQ = view_mask(bev_mask_BNQD, reading=reading)
        mask_BNQ = mask_BNQ if bev_BQ is None else mask_BNQ.to(bev_BQ.dtype)
    _check_fit(image_BN, bev_BQ=bev_BQ, mask_BNQ=mask_BNQ, reading=reading)
    loss = _combined(image_BN, bev_BQ=bev_BQ, mask_BNQ=mask_BNQ, reading=reading)
    sides = {"vgd_image": image_BN, "vgd_bev": bev_BQ}
    return loss, {"vgd": loss.detach()} | {
        name: divergence.detach().mean() for name, divergence in sides.items() if divergence is not None
    }


def _divergence_terms(student: Tensor, *, teacher: Tensor, dims: Sequence[int], reading: Reading) -> Tensor:
    return elementwise_divergence(
        student, teacher=teacher, temperature=reading.temperature, dims=dims, pointwise=reading.pointwise
    )


def _levels_divergence(
    student_image: Tensor | Sequence[Tensor], *, teacher_image: Tensor | Sequence[Tensor], reading: Reading
) -> Tensor:
    levels = [
        image_divergence(student, teacher_BNCHW=teacher, reading=reading)
        for student, teacher in paired_levels(student_image, teacher_image=teacher_image)
    ]
    return torch.stack(levels).mean(dim=0)


def _combined(image_BN: Tensor | None, *, bev_BQ: Tensor | None, mask_BNQ: Tensor | None, reading: Reading) -> Tensor:
    if reading.batch == "paper_literal":
        image_BN, bev_BQ, mask_BNQ = (
            None if tensor is None else tensor.mean(dim=0, keepdim=True) for tensor in (image_BN, bev_BQ, mask_BNQ)
        )
    if reading.combine == "product" and image_BN is not None and bev_BQ is not None and mask_BNQ is not None:
        image_BN = image_BN.detach() if reading.detach == "image" else image_BN
        bev_BQ = bev_BQ.detach() if reading.detach == "bev" else bev_BQ
        guided_BNQ = spread_over_bev(image_BN, mask_BNQ=mask_BNQ) * bev_BQ.unsqueeze(1)
        return guided_BNQ.sum(dim=(1, 2)).mean()
    sides = {"image": image_BN, "bev": bev_BQ}
    side_B = [
        divergence.sum(dim=1) for name, divergence in sides.items() if divergence is not None and name in reading.sides
    ]
    return torch.stack(side_B).sum(dim=0).mean()


def _check_fit(image_BN: Tensor | None, *, bev_BQ: Tensor | None, mask_BNQ: Tensor | None, reading: Reading) -> None:
    given = {"image": image_BN, "bev": bev_BQ, "mask": mask_BNQ}
    if lacking := [name for name in reading.sides if given[name] is None]:
        raise ValueError(
            f"combine={reading.combine!r} needs {', '.join(reading.sides)}: {' and '.join(lacking)} is missing"
        )
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
