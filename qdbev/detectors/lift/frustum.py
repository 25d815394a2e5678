"""The points that a pixel may stand for, one a depth, and the cell of the ground that each of them lies in.

Shapes: B samples, N cameras, D depths, H W of a feature map, P = H W pixels, Q = rows times columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qdbev.ops.frustum_pooling import NO_CELL


@dataclass(frozen=True)
class VoxelGrid:
    """Where points are counted: one layer of cells on the ground.

    Attributes:
        low_m: Lower corner x, y, z.
        cell_m: Size of a cell along x, y and z; along z it is the whole height.
        rows: Cells along y.
        columns: Cells along x.
    """

    low_m: tuple[float, float, float]
    cell_m: tuple[float, float, float]
    rows: int
    columns: int

    @property
    def cells(self) -> int:
        """How many there are."""
        return self.rows * self.columns


def frustum(*, image_px: tuple[int, int], stride: int, depths_m: Sequence[float]) -> Tensor:
    """(D, H, W, 3) pixel x, pixel y and depth of every point.

    The outermost pixels of the feature map stand for the outermost pixels of the image, not for the middles of cells.

    Args:
        image_px: Height and width of the network's input.
        stride: Pixels of it per pixel of the feature map.
        depths_m: Depths.

    >>> frustum(image_px=(2, 5), stride=1, depths_m=[1.0])[0, :, -1].tolist()
    [[4.0, 0.0, 1.0], [4.0, 1.0, 1.0]]
    """
    (height, width), count = image_px, len(depths_m)
    rows, columns = height // stride, width // stride
    depth = torch.tensor(list(depths_m)).view(-1, 1, 1).expand(count, rows, columns)
    x = torch.linspace(0, width - 1, columns).expand(count, rows, columns)
    y = torch.linspace(0, height - 1, rows).view(-1, 1).expand(count, rows, columns)
    return torch.stack([x, y, depth], -1)


def times_depth(points: Tensor) -> Tensor:
    """(x, y, depth, ...) to (x times depth, y times depth, depth, ...): what a camera's inverse matrix takes."""
    return torch.cat([points[..., :2] * points[..., 2:3], points[..., 2:]], -1)


def cells_of(places_BNX3: Tensor, *, grid: VoxelGrid) -> Tensor:
    """Cell of every point (B, N, X), as an index into the cells of all samples, -1 where it lies in none.

    A cell is told by cutting off towards zero, as the official codes do: points up to one cell below the lower border
    are counted in the first cell, along z too.

    Args:
        places_BNX3: Points in the grid's frame.
        grid: The cells.
    """
    low, size = places_BNX3.new_tensor(grid.low_m), places_BNX3.new_tensor(grid.cell_m)
    index = ((places_BNX3 - low) / size).long()
    inside = ((index >= 0) & (index < index.new_tensor([grid.columns, grid.rows, 1]))).all(-1)
    first = torch.arange(len(index), device=index.device).view(-1, 1, 1) * grid.cells
    return (first + index[..., 1] * grid.columns + index[..., 0]).masked_fill(~inside, NO_CELL)


def seen_cells(cells_BNDP: Tensor, *, grid: VoxelGrid) -> Tensor:
    """Which camera's frustum has a point in which cell, bool (B, N, Q, 1)."""
    samples, cameras = cells_BNDP.shape[:2]
    here = torch.arange(samples, device=cells_BNDP.device).view(-1, 1, 1) * grid.cells
    local = cells_BNDP.flatten(2) - here
    local = local.masked_fill(cells_BNDP.flatten(2) < 0, grid.cells)
    seen = torch.zeros(samples, cameras, grid.cells + 1, dtype=torch.bool, device=cells_BNDP.device)
    return seen.scatter_(2, local, True)[..., :-1, None]
