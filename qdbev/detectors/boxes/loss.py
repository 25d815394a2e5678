"""Detection losses of every decoder layer: sigmoid focal for classes, weighted L1 for box codes.

Shapes: B samples, K object queries, M objects, C classes, L decoder layers.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from mmdet.utils import reduce_mean
from torch import Tensor

from qdbev.detectors.boxes.matching import match

CLASS_WEIGHT = 2.0
BOX_WEIGHT = 0.25
ALPHA, GAMMA = 0.25, 2.0
MOTION = slice(6, 10)  # sin yaw, cos yaw, vx, vy in the box code
VELOCITY_SCALE_MPS = 5.0


def sigmoid_focal(logits: Tensor, targets: Tensor) -> Tensor:
    """Focal loss (arXiv 1708.02002 equation 5) per element, alpha 0.25, gamma 2.

    >>> sigmoid_focal(torch.tensor([0.0]), torch.tensor([1.0])).round(decimals=4).tolist()
    [0.043299999088048935]
    """
    probability = logits.sigmoid()
    miss = probability * (1 - targets) + (1 - probability) * targets
    balance = ALPHA * targets + (1 - ALPHA) * (1 - targets)
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none") * balance * miss**GAMMA


def detection_losses(
    logits_LBKC: Tensor,
    code_LBK10: Tensor,
    *,
    labels: list[Tensor],
    targets: list[Tensor],
    code_weights_10: Tensor,
    motion_weight: float = 0.0,
    as_petr: bool = False,
) -> dict[str, Tensor]:
    """Losses by official name: ``loss_cls``, ``loss_bbox`` for the last layer, ``d0.loss_cls`` ... for the others.

    With a ``motion_weight``, ``loss_motion`` too: the squared error of heading and velocity. L1 alone is content with
    the median, and most things stand still; the squared error asks for the mean.

    Both are normalised by the number of matched queries, averaged over ranks, at least 1.

    Args:
        logits_LBKC: Class logits.
        code_LBK10: Metric box codes.
        labels: Per sample (M,) class indices.
        targets: Per sample (M, 10) box codes; rows with a number that is not finite give no box loss.
        code_weights_10: Weight of each code entry.
        motion_weight: Weight of ``loss_motion``; the official losses have none.
        as_petr: Normalise the class loss by the matches of this rank alone, and forgive costs that are not finite.
    """
    losses = {}
    last = len(logits_LBKC) - 1
    for layer, (logits_BKC, code_BK10) in enumerate(zip(logits_LBKC, code_LBK10, strict=True)):
        prefix = "" if layer == last else f"d{layer}."
        of_class, of_box, of_motion = _layer_losses(
            logits_BKC,
            code_BK10,
            labels=labels,
            targets=targets,
            code_weights_10=code_weights_10,
            as_petr=as_petr,
        )
        losses[f"{prefix}loss_cls"], losses[f"{prefix}loss_bbox"] = of_class, of_box
        if motion_weight:
            losses[f"{prefix}loss_motion"] = motion_weight * of_motion
    return losses


def _layer_losses(
    logits_BKC: Tensor,
    code_BK10: Tensor,
    *,
    labels: list[Tensor],
    targets: list[Tensor],
    code_weights_10: Tensor,
    as_petr: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    hot_BKC = torch.zeros_like(logits_BKC)
    matched, wanted = [], []
    for sample, (labels_M, targets_M10) in enumerate(zip(labels, targets, strict=True)):
        queries, objects = match(
            logits_BKC[sample], code_BK10[sample], labels_M=labels_M, targets_M10=targets_M10, forgiving=as_petr
        )
        hot_BKC[sample, queries, labels_M[objects]] = 1
        matched.append(code_BK10[sample, queries])
        wanted.append(targets_M10[objects])
    predicted, target = torch.cat(matched), torch.cat(wanted)
    count = logits_BKC.new_tensor(float(len(target)))
    normaliser = reduce_mean(count).clamp(min=1)
    finite = target.isfinite().all(-1)
    of_class = sigmoid_focal(logits_BKC, hot_BKC).sum() / (count.clamp(min=1) if as_petr else normaliser)
    error = predicted[finite] - target[finite]
    of_box = (error.abs() * code_weights_10).sum() / normaliser
    scale_4 = error.new_tensor([1.0, 1.0, VELOCITY_SCALE_MPS, VELOCITY_SCALE_MPS])
    of_motion = (error[:, MOTION] / scale_4).square().sum() / normaliser
    return CLASS_WEIGHT * of_class, BOX_WEIGHT * of_box, of_motion
