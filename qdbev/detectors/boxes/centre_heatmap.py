"""Heat maps of object centres and their loss, CornerNet (arXiv 1808.01244) equation 1 in CenterNet's form.

Shapes: O objects of the whole batch, G maps, H W of a map.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LOWEST_LOG = 1e-12  # under a logarithm in CenterNet's code


def draw_centres(
    cells_O2: Tensor,
    *,
    sigma_O: Tensor,
    maps_O: Tensor,
    count: int,
    rows: int,
    columns: int,
    radius_O: Tensor | None = None,
) -> Tensor:
    """Maps (count, rows, columns) with a Gaussian of height 1 at each object's cell; overlaps take the maximum.

    Args:
        cells_O2: Integer cells (x, y), inside the map.
        sigma_O: Standard deviations in cells.
        maps_O: The map that each object is drawn on.
        count: Number of maps.
        rows: Map height.
        columns: Map width.
        radius_O: Cells from an object's own, along each axis, behind which its Gaussian is cut off; None: nowhere.
    """
    y = torch.arange(rows, device=cells_O2.device)[None, :, None] - cells_O2[:, 1, None, None]
    x = torch.arange(columns, device=cells_O2.device)[None, None] - cells_O2[:, 0, None, None]
    bumps_OHW = (-(x**2 + y**2).float() / (2 * sigma_O[:, None, None] ** 2)).exp()
    if radius_O is not None:
        bumps_OHW = bumps_OHW * ((x.abs() <= radius_O[:, None, None]) & (y.abs() <= radius_O[:, None, None]))
    maps = torch.zeros(count, rows, columns, device=cells_O2.device)
    return maps.scatter_reduce_(0, maps_O[:, None, None].expand_as(bumps_OHW), bumps_OHW, "amax")


def centre_focal(logits_GHW: Tensor, *, targets_GHW: Tensor, objects: float, lowest: float | None = None) -> Tensor:
    """Penalty-reduced focal loss (powers 2 and 4), summed and divided by the number of objects (at least 1).

    Args:
        logits_GHW: Of the class scores; not changed.
        targets_GHW: From ``draw_centres``.
        objects: What the sum is divided by.
        lowest: Probabilities are clamped to it from below, and to one minus it from above, as CenterNet's code does: a
            cell outside gets no gradient. None: they are taken as they are.
    """
    logits_GHW = logits_GHW.float()
    probability = logits_GHW.sigmoid()
    log_hit, log_miss = F.logsigmoid(logits_GHW), F.logsigmoid(-logits_GHW)
    if lowest is not None:
        probability = probability.clamp(lowest, 1 - lowest)
        log_hit, log_miss = (probability + LOWEST_LOG).log(), (1 - probability + LOWEST_LOG).log()
    positive = (targets_GHW == 1).float()
    hit = positive * (1 - probability) ** 2 * -log_hit
    miss = (1 - positive) * (1 - targets_GHW) ** 4 * probability**2 * -log_miss
    return (hit + miss).sum() / max(objects, 1)
