"""Which query answers for which object: the cheapest one-to-one assignment, DETR (arXiv 2005.12872) section 3.1.

Shapes: K object queries, M objects, C classes.
"""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

CLASS_COST = 2.0
BOX_COST = 0.25
COSTED_ENTRIES = 8  # centre, size and heading; the velocity does not count
UNKNOWN_COST = 100.0
ALPHA, GAMMA, EPSILON = 0.25, 2.0, 1e-12


def matching_cost(logits_KC: Tensor, code_K10: Tensor, *, labels_M: Tensor, targets_M10: Tensor) -> Tensor:
    """(K, M) focal class cost plus L1 box cost, with BEVFormer's weights 2 and 0.25."""
    probability = logits_KC.float().sigmoid()
    background = -(1 - probability + EPSILON).log() * (1 - ALPHA) * probability**GAMMA
    foreground = -(probability + EPSILON).log() * ALPHA * (1 - probability) ** GAMMA
    of_class_KM = (foreground - background)[:, labels_M]
    of_box_KM = torch.cdist(code_K10[:, :COSTED_ENTRIES].float(), targets_M10[:, :COSTED_ENTRIES].float(), p=1)
    return CLASS_COST * of_class_KM + BOX_COST * of_box_KM


@torch.no_grad()
def match(
    logits_KC: Tensor, code_K10: Tensor, *, labels_M: Tensor, targets_M10: Tensor, forgiving: bool = False
) -> tuple[Tensor, Tensor]:
    """The assignment of least total cost.

    Args:
        logits_KC: Class logits.
        code_K10: Metric box codes.
        labels_M: Class indices of the objects.
        targets_M10: Their box codes.
        forgiving: Costs that are not finite become 100, or -100 below, as in PETR's official code.

    Returns:
        Query indices in rising order and the object index of each, both of length min(K, M).

    Raises:
        ValueError: a cost is not finite, which means diverged predictions or a broken box.
    """
    cost = matching_cost(logits_KC, code_K10, labels_M=labels_M, targets_M10=targets_M10)
    if forgiving:
        cost = cost.nan_to_num(UNKNOWN_COST, UNKNOWN_COST, -UNKNOWN_COST)
    if not bool(torch.isfinite(cost).all()):
        raise ValueError("the matching cost is not finite: predictions diverged, or a ground-truth box has no size")
    rows, columns = linear_sum_assignment(cost.cpu().numpy())
    device = logits_KC.device
    return torch.as_tensor(rows, device=device), torch.as_tensor(columns, device=device)
