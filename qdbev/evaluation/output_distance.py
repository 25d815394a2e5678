"""How far a detector's outputs moved, query by query, in units of the nuScenes score.

Both detectors see the same images and history, so that query k of one is query k of the other.

    class   sum_c KL(p_c || q_c) of the binary scores, in nats, over all queries
    box     max_c p_c * sum_g d_g^2 / (1 + d_g^2)

``g`` are the centre in the plane and the velocity (m, m/s), the size (logarithms) and the heading (sin and cos): the
units in which NDS cuts a true-positive error off at 1. The squares bend there, so that a box far off counts as lost.

Shapes: B samples, K queries, C classes; a box code is x, y, log w, log l, z, log h, sin, cos, vx, vy.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid

_GROUPS = ((0, 1), (2, 3, 5), (6, 7), (8, 9))  # places in a box code: centre, size, heading, velocity


def output_distance(
    logits_BKC: Tensor, code_BK10: Tensor, *, reference_logits_BKC: Tensor, reference_code_BK10: Tensor
) -> Tensor:
    """The distance of outputs from a reference's.

    Args:
        logits_BKC: Class logits.
        code_BK10: Box codes in metres.
        reference_logits_BKC: Those of the reference, whose scores weigh its boxes.
        reference_code_BK10: Its box codes.

    Returns:
        One number per sample, 0 for equal outputs; for small changes it grows with their square. Shape (B,).
    """
    scores_BKC = reference_logits_BKC.sigmoid()
    moved = scores_BKC * (logsigmoid(reference_logits_BKC) - logsigmoid(logits_BKC))
    moved = moved + (1 - scores_BKC) * (logsigmoid(-reference_logits_BKC) - logsigmoid(-logits_BKC))
    square_BK10 = (code_BK10 - reference_code_BK10).square()
    box_BK = sum(_bent(square_BK10[..., list(group)].sum(-1)) for group in _GROUPS)
    weighted_BK = scores_BKC.amax(-1) * box_BK
    return moved.flatten(1).sum(1) + weighted_BK.sum(1)


def _bent(square: Tensor) -> Tensor:
    return square / (1 + square)
