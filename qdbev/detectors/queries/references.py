"""Where an object query looks first, and how a layer's box code moves it.

Shapes: B samples, K object queries, C channels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from qdbev.detectors.boxes.box_code import CODE_SIZE

QUERY_INITS = ("random", "grid")


def refuse_unknown_init(query_init: str) -> None:
    """Refuse a way of placing queries that there is not."""
    if query_init not in QUERY_INITS:
        raise ValueError(f"query_init is {query_init!r}, expected one of {list(QUERY_INITS)}")


def inverse_sigmoid(x: Tensor) -> Tensor:
    """log(x / (1 - x)) with both kept above 1e-5, in float32.

    >>> inverse_sigmoid(torch.tensor([0.5, 0.0])).round(decimals=3).tolist()
    [0.0, -11.512999534606934]
    """
    x = x.float().clamp(0, 1)
    return (x.clamp(min=1e-5) / (1 - x).clamp(min=1e-5)).log()


def moved(raw_BK10: Tensor, *, reference_BK3: Tensor) -> Tensor:
    """Adds the reference to the raw centre in logit space: centre entries 0, 1 and 4 leave as fractions in (0, 1)."""
    if raw_BK10.shape[-1] != CODE_SIZE:
        raise ValueError(f"a box code has {CODE_SIZE} numbers, the regression branch gave {raw_BK10.shape[-1]}")
    logit = inverse_sigmoid(reference_BK3)
    xy = (raw_BK10[..., 0:2] + logit[..., 0:2]).sigmoid()
    z = (raw_BK10[..., 4:5] + logit[..., 2:3]).sigmoid()
    return torch.cat([xy, raw_BK10[..., 2:4], z, raw_BK10[..., 5:]], -1)


def grid_positions(count: int) -> Tensor:
    """(K, 3) positions in (0, 1): rows of nearly equal length over x and y, at half height.

    >>> grid_positions(3).tolist()
    [[0.1666666716337204, 0.5, 0.5], [0.5, 0.5, 0.5], [0.8333333134651184, 0.5, 0.5]]
    """
    rows = max(math.isqrt(count), 1)
    positions = []
    for row in range(rows):
        columns = (row + 1) * count // rows - row * count // rows
        positions += [((column + 0.5) / columns, (row + 0.5) / rows, 0.5) for column in range(columns)]
    return torch.tensor(positions)


@torch.no_grad()
def spread_queries(query_embedding: nn.Embedding, *, reference_points: nn.Linear) -> None:
    """Moves each query's position part as little as possible so that its first reference is its place in the grid."""
    channels = reference_points.in_features
    position_KC = query_embedding.weight[:, :channels]
    wanted_K3 = inverse_sigmoid(grid_positions(query_embedding.num_embeddings))
    error_K3 = wanted_K3 - reference_points(position_KC)
    position_KC += error_K3 @ torch.linalg.pinv(reference_points.weight).T
