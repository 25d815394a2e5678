"""Positions that PETR adds to image cells and queries (arXiv 2203.05625, section 3.2), before its small networks.

All in float32, whatever autocast says. What the official code does, and a fresh implementation would not: a cell stands
for the pixel in its TOP LEFT corner; places are fractions of a range of their own, not of the boxes' range, clamped, so
that many lie at exactly +-11.51 behind the inverse sigmoid; a camera's number in the rig is part of its position.

Shapes: B samples, N cameras, H W of an image level, D depths, K object queries.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from qdbev.detectors.images.frame_batch import FrameBatch
from qdbev.detectors.queries.references import inverse_sigmoid

TEMPERATURE = 10_000
EPSILON = 1e-6
MIN_SCALE = 1e-5


def depths_m(count: int, *, start_m: float, end_m: float, device: torch.device | str) -> Tensor:
    """(D,) depths whose steps grow linearly; the end is reached one step behind the last.

    >>> depths_m(3, start_m=1.0, end_m=13.0, device="cpu").tolist()
    [1.0, 3.0, 7.0]
    """
    number = torch.arange(count, dtype=torch.float32, device=device)
    return start_m + (end_m - start_m) / (count * (count + 1)) * number * (number + 1)


def frustum_logits(
    shape: tuple[int, int], *, frames: FrameBatch, depths: Tensor, position_range: tuple[float, ...]
) -> Tensor:
    """(B, N, 3 D, H, W) where the pixels of each cell would lie at each depth, as logits of fractions of a range.

    Channels run depth by depth, x y z within one.

    Args:
        shape: H and W.
        frames: The cameras, and the size of the padded images.
        depths: (D,) in metres.
        position_range: x, y, z minimum then maximum [m].
    """
    height, width = shape
    size = frames.image_size_B2.float()
    u = torch.arange(width, device=size.device) * size[:, :1] / width
    v = torch.arange(height, device=size.device) * size[:, 1:] / height
    pixels = torch.stack(torch.broadcast_tensors(u[:, None, :, None], v[:, :, None, None], size.new_ones(1)), -1)
    scaled = pixels[..., :2] * depths.clamp(min=MIN_SCALE)[:, None]
    point_BHWD4 = torch.cat(
        [scaled, depths[:, None].expand(*scaled.shape[:-1], 1), scaled.new_ones(*scaled.shape[:-1], 1)], -1
    )
    # cells and depths in one axis: devices that run a graph of this take five axes at most
    lidar_BNP3 = torch.einsum("bnij,bpj->bnpi", frames.to_lidar(), point_BHWD4.flatten(1, 3))[..., :3]
    low, high = (lidar_BNP3.new_tensor(position_range[side]) for side in (slice(0, 3), slice(3, 6)))
    logits_BNP3 = inverse_sigmoid((lidar_BNP3 - low) / (high - low))
    return logits_BNP3.unflatten(2, (height * width, -1)).flatten(3).transpose(2, 3).unflatten(-1, shape)


def padded_cells(shape: tuple[int, int], *, frames: FrameBatch) -> Tensor | None:
    """(B, H, W) True where a cell, by its top left pixel, lies in the padding; None where nothing is padded."""
    if frames.valid_size_B2 is None:
        return None
    height, width = shape
    size, valid = frames.image_size_B2, frames.valid_size_B2
    right = (torch.arange(width, device=size.device) * size[:, :1] / width).floor() >= valid[:, :1]
    below = (torch.arange(height, device=size.device) * size[:, 1:] / height).floor() >= valid[:, 1:]
    return right[:, None, :] | below[:, :, None]


def rig_sines(
    shape: tuple[int, int], *, cameras: int, padded_BHW: Tensor | None, frames: FrameBatch, features: int
) -> Tensor:
    """(B, N, 3 F, H, W) sines of each cell's camera, row and column, each counted from 1 to a full turn.

    Of each F come the sines first, then the cosines; those of queries come by turns.

    Args:
        shape: H and W.
        cameras: N.
        padded_BHW: Cells that do not count, as ``padded_cells`` gives them.
        frames: The batch.
        features: F, numbers for each of the three.
    """
    size = frames.image_size_B2
    there_BNHW = size.new_ones(len(size), cameras, *shape)
    if padded_BHW is not None:
        there_BNHW = there_BNHW * (~padded_BHW)[:, None]
    turns = []
    for axis in (1, 2, 3):
        counted = there_BNHW.cumsum(axis)
        last = counted.narrow(axis, counted.shape[axis] - 1, 1)
        turns.append(sines(counted / (last + EPSILON) * (2 * math.pi), features=features, by_turns=False))
    return torch.cat(turns, -1).permute(0, 1, 4, 2, 3)


def query_sines(anchors_K3: Tensor, *, features: int) -> Tensor:
    """(K, 3 F) sines of anchors in fractions of the range, taken raw; the order is y, x, z."""
    turned = [sines(anchors_K3[:, axis] * (2 * math.pi), features=features, by_turns=True) for axis in (1, 0, 2)]
    return torch.cat(turned, -1)


def sines(angle: Tensor, *, features: int, by_turns: bool) -> Tensor:
    """(..., F) sines and cosines of ever slower frequencies, by turns or the sines first.

    >>> sines(torch.tensor([1.0]), features=4, by_turns=True).round(decimals=2).tolist()
    [[0.8399999737739563, 0.5400000214576721, 0.009999999776482582, 1.0]]
    >>> sines(torch.tensor([1.0]), features=4, by_turns=False).round(decimals=2).tolist()
    [[0.8399999737739563, 0.009999999776482582, 0.5400000214576721, 1.0]]
    """
    number = torch.arange(features, dtype=torch.float32, device=angle.device)
    slowed = angle[..., None] / TEMPERATURE ** (2 * (number // 2) / features)
    pair = slowed[..., 0::2].sin(), slowed[..., 1::2].cos()
    return torch.stack(pair, -1).flatten(-2) if by_turns else torch.cat(pair, -1)
