"""The loss of depths that the LiDAR saw, BEVDepth (arXiv 2206.10092) section 4.2.

Shapes: E images, D depths, P pixels of the feature map.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def depth_bins(nearest_EP: Tensor, *, first_m: float, step_m: float, depths: int) -> Tensor:
    """(E, P) index of each pixel's depth, -1 where none is known or it lies outside.

    Args:
        nearest_EP: Metres to the nearest LiDAR point of a pixel, 0 where there is none.
        first_m: Lower edge of the first bin.
        step_m: Width of a bin.
        depths: Bins.

    >>> depth_bins(torch.tensor([[0.0, 1.9, 2.0, 2.6, 57.9, 58.0]]), first_m=2.0, step_m=0.5, depths=112).tolist()
    [[-1, -1, 0, 1, 111, -1]]
    """
    place = (nearest_EP - (first_m - step_m)) / step_m
    inside = (place >= 0) & (place < depths + 1)
    return torch.where(inside, place, torch.zeros_like(place)).long() - 1


def depth_loss(depth_EDP: Tensor, *, bins_EP: Tensor) -> Tensor:
    """Binary cross-entropy of all depths, summed over labelled pixels and divided by their number, at least one."""
    known = bins_EP >= 0
    predicted = depth_EDP.float().transpose(1, 2)[known]
    wanted = F.one_hot(bins_EP[known], depth_EDP.shape[1]).to(predicted.dtype)
    with torch.autocast(predicted.device.type, enabled=False):
        loss = F.binary_cross_entropy(predicted, wanted, reduction="sum")
    return loss / known.sum().clamp(min=1)
