"""Aligning the history BEV with the current frame: rotation of the map and shift of the reference points.

BEVFormer (arXiv 2203.17270) section 3.4. CAN-bus entries used: 0:3 translation since the previous frame [m, global],
16 yaw [rad, absolute], 17 yaw since the previous frame [deg].
Shapes: B samples, Q BEV cells, C channels, H rows, W columns.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from qdbev.detectors.images.projection import without_autocast


def shift(can_bus_B18: Tensor, *, cell_m: tuple[float, float], rows: int, columns: int) -> Tensor:
    """(B, 2) ego motion (x, y) since the previous frame in fractions of the grid, in the LiDAR frame (y forward).

    Args:
        can_bus_B18: With differences in entries 0:3.
        cell_m: Cell size (x, y) [m].
        rows: Cells along y.
        columns: Cells along x.
    """
    dx, dy, yaw = can_bus_B18[:, 0], can_bus_B18[:, 1], can_bus_B18[:, 16]
    length = torch.hypot(dx, dy)
    angle = yaw - torch.atan2(dy, dx)
    return torch.stack([length * angle.sin() / cell_m[0] / columns, length * angle.cos() / cell_m[1] / rows], -1)


def rotate(bev_BCHW: Tensor, *, degrees_B: Tensor, centre_px: tuple[float, float] | None, nearest: bool) -> Tensor:
    """Rotates each map by its own angle, zeros coming in from outside.

    Same numbers as torchvision's ``rotate`` on a tensor: a positive angle turns counter-clockwise as seen on the
    screen.

    Args:
        bev_BCHW: Maps.
        degrees_B: Angles.
        centre_px: (x, y) of the fixed point in pixels from the upper left corner; None is the map's own centre. The
            official code has (100, 100) for every variant, which is the centre only of a 200 x 200 map.
        nearest: Nearest neighbour instead of bilinear.
    """
    _, _, height, width = bev_BCHW.shape
    with without_autocast(bev_BCHW.device):
        grid = _rotation_grid(degrees_B, height=height, width=width, centre_px=centre_px)
        mode = "nearest" if nearest else "bilinear"
        return F.grid_sample(bev_BCHW, grid.to(bev_BCHW.dtype), mode=mode, padding_mode="zeros", align_corners=False)


def _rotation_grid(degrees_B: Tensor, *, height: int, width: int, centre_px: tuple[float, float] | None) -> Tensor:
    angle = -degrees_B.double() * (math.pi / 180)
    cosine, sine = angle.cos(), angle.sin()
    x, y = (0.0, 0.0) if centre_px is None else (centre_px[0] - 0.5 * width, centre_px[1] - 0.5 * height)
    row_x = torch.stack([cosine, sine, x - cosine * x - sine * y], -1)
    row_y = torch.stack([-sine, cosine, y + sine * x - cosine * y], -1)
    theta_B32 = torch.stack([row_x, row_y], -1).float()
    base_Q3 = _centred_pixels(height=height, width=width, device=degrees_B.device)
    half = theta_B32.new_tensor([0.5 * width, 0.5 * height])
    return torch.matmul(base_Q3, theta_B32 / half).reshape(-1, height, width, 2)


def _centred_pixels(*, height: int, width: int, device: torch.device) -> Tensor:
    x = torch.linspace(0.5 - 0.5 * width, 0.5 * width - 0.5, width, device=device)
    y = torch.linspace(0.5 - 0.5 * height, 0.5 * height - 0.5, height, device=device)
    ones = torch.ones(height, width, device=device)
    return torch.stack([x[None].expand(height, -1), y[:, None].expand(-1, width), ones], -1).reshape(-1, 3)
