"""Where a BEV cell lies, in the grid and in metres, and which camera sees it; BEVFormer (arXiv 2203.17270) section 3.3.

Shapes: B samples, N cameras, Q BEV cells (row by row), D heights in a pillar, R pairs of a cell and a camera that
sees it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from qdbev.ops import Rows, exports_all_pairs

OUTSIDE = -1000.0
"""Fractions of an image: so far outside that no offset leads back."""


def cell_centres(*, rows: int, columns: int, device: torch.device) -> Tensor:
    """(Q, 2) cell centres (x, y) in fractions of the grid.

    >>> cell_centres(rows=1, columns=2, device=torch.device("cpu")).tolist()
    [[0.25, 0.5], [0.75, 0.5]]
    """
    y = torch.linspace(0.5, rows - 0.5, rows, device=device) / rows
    x = torch.linspace(0.5, columns - 0.5, columns, device=device) / columns
    return torch.stack([x[None].expand(rows, -1), y[:, None].expand(-1, columns)], -1).flatten(0, 1)


def pillar_points(
    *, rows: int, columns: int, heights: int, pc_range: tuple[float, ...], device: torch.device
) -> Tensor:
    """(D, Q, 3) points in metres; the heights run from 0.5 m above the floor of the range to 0.5 m below its top."""
    extent = pc_range[5] - pc_range[2]
    z = torch.linspace(0.5, extent - 0.5, heights, device=device) / extent
    xy = cell_centres(rows=rows, columns=columns, device=device)
    xyz = torch.cat([xy[None].expand(heights, -1, -1), z[:, None, None].expand(-1, len(xy), 1)], -1)
    low, high = xyz.new_tensor(pc_range[:3]), xyz.new_tensor(pc_range[3:])
    return xyz * (high - low) + low


@dataclass(frozen=True)
class Visibility:
    """The cells that each camera sees; R runs over all of them, image by image, cells in rising order.

    Attributes:
        rows: image (sample * cameras + camera) and cell (sample * cells + cell) of each pair.
        references_RD2: projections (x, y) of the pillar of each pair, in fractions of the padded image.
        cameras_BQ: how many cameras see a cell, at least 1 (it is a divisor).

    In a graph that is exported R runs over all pairs; where a camera does not see a cell, they look far outside.
    """

    rows: Rows
    references_RD2: Tensor
    cameras_BQ: Tensor

    def to(self, device: torch.device) -> Visibility:
        """The same on a device."""
        rows = replace(self.rows, image_R=self.rows.image_R.to(device), query_R=self.rows.query_R.to(device))
        return Visibility(rows, self.references_RD2.to(device), self.cameras_BQ.to(device))


@torch.no_grad()
def visibility(image_BNQD2: Tensor, *, mask_BNQD: Tensor) -> Visibility:
    """Lists, sample by sample, the cells with at least one visible height in each camera."""
    seen_BNQ = mask_BNQD.any(-1)
    if exports_all_pairs():
        return _of_all_pairs(image_BNQD2, seen_BNQ=seen_BNQ)
    samples, cameras, cells = seen_BNQ.shape
    pair_R = seen_BNQ.flatten().nonzero().flatten()
    pairs = Rows.all_images(samples=samples, views=cameras, queries=cells, device=seen_BNQ.device)
    rows = Rows(pairs.image_R[pair_R], pairs.query_R[pair_R])
    return Visibility(rows, image_BNQD2.flatten(0, 2)[pair_R], seen_BNQ.sum(1).clamp(min=1))


def _of_all_pairs(image_BNQD2: Tensor, *, seen_BNQ: Tensor) -> Visibility:
    """The same with shapes that no number decides: what a camera does not see is looked for far outside its image."""
    samples, cameras, cells = seen_BNQ.shape
    rows = Rows.all_images(samples=samples, views=cameras, queries=cells, device=seen_BNQ.device)
    looked_at = torch.where(
        seen_BNQ[..., None, None], image_BNQD2, torch.full_like(image_BNQD2[:1, :1, :1, :1], OUTSIDE)
    )
    return Visibility(rows, looked_at.flatten(0, 2), seen_BNQ.sum(1).clamp(min=1))
