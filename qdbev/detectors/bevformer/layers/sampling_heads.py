"""The two linear layers that say where a deformable attention looks and how much each look counts.

Shapes: M heads, G groups (history slots and levels), P points.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def sampling_layers(*, channels: int, heads: int, groups: int, points: int) -> tuple[nn.Linear, nn.Linear]:
    """Layers for the offsets, out (M, G, P, 2), and the attention logits, out (M, G, P), started as in the paper."""
    offsets, weights = nn.Linear(channels, heads * groups * points * 2), nn.Linear(channels, heads * groups * points)
    reset_sampling(offsets, weights, heads=heads, points=points)
    return offsets, weights


def reset_sampling(offsets: nn.Linear, weights: nn.Linear, *, heads: int, points: int) -> None:
    """Zero weights; each head looks in its own direction, point k at k pixels; all looks count the same."""
    for tensor in (offsets.weight, weights.weight, weights.bias):
        nn.init.zeros_(tensor)
    bias = star(heads=heads, points=points)
    groups = offsets.out_features // bias.numel()
    with torch.no_grad():
        offsets.bias.copy_(bias[:, None].expand(-1, groups, -1, -1).flatten())


def star(*, heads: int, points: int) -> Tensor:
    """(M, P, 2) first offsets [px]: directions on the unit square's edge times 1..P.

    >>> star(heads=4, points=2).round().int().tolist()
    [[[1, 0], [2, 0]], [[0, 1], [0, 2]], [[-1, 0], [-2, 0]], [[0, -1], [0, -2]]]
    """
    angle_M = torch.arange(heads) * (2 * math.pi / heads)
    direction_M2 = torch.stack([angle_M.cos(), angle_M.sin()], -1)
    direction_M2 = direction_M2 / direction_M2.abs().amax(-1, keepdim=True)
    return direction_M2[:, None] * torch.arange(1, points + 1)[None, :, None]
