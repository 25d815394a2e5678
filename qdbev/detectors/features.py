"""The features of a detector that distillation compares.

Shapes: B samples, N cameras, C channels (classes for logits), H W of an image level, Q BEV cells, D heights in a pillar
(numbers of a box code for codes), L decoder layers, K object queries.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Features:
    """What distillation compares, of the current frame; a detector leaves None what it does not have.

    Attributes:
        image: neck levels, each (B, N, C, H, W).
        bev_BQC: BEV features.
        bev_mask_BNQD: which camera sees which point of a cell's pillar, bool.
        logits_LBKC: class logits of every decoder layer's object queries.
        code_LBKD: their box codes.
    """

    image: list[Tensor] | None = None
    bev_BQC: Tensor | None = None
    bev_mask_BNQD: Tensor | None = None
    logits_LBKC: Tensor | None = None
    code_LBKD: Tensor | None = None
