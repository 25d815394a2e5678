"""Multi-scale deformable attention as gathered rows and small products: for exported graphs that a CPU runs.

A sample is four rows of the map, of one head each; what a query sees with a head is one product, weights times rows.
The maps have a border of zeros, so a place far outside is moved onto the border, and nobody asks whether it is inside.

Shapes: E images, S tokens of all levels, J queries, R rows, M heads, L levels, P points, D samples (L * P), C channels
of one head, H W of one level.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

LevelShapes = Sequence[tuple[int, int]]
_BEFORE, _BEHIND = 1, 2
"""Zeros around a map: a place on the last border has a pixel behind it, too, which weighs nothing."""
_COUNTED = 1 << 24


def gathered_form(
    value_ESMC: Tensor,
    level_shapes: LevelShapes,
    *,
    image_R: Tensor,
    query_R: Tensor | None,
    references_RLP2: Tensor,
    offsets_JMLP2: Tensor,
    weights_JMLP: Tensor,
) -> Tensor:
    """What each row sees, (R, M * C); see ``deformable_attention``.

    Args:
        value_ESMC: Levels flattened row by row and concatenated.
        level_shapes: (H, W) of each level.
        image_R: Image of each row.
        query_R: Query of each row; None where each query has the row of its own number.
        references_RLP2: (x, y) in fractions of the image; the axes L and P may be 1.
        offsets_JMLP2: (x, y) in pixels of the level.
        weights_JMLP: Attention weights.

    Raises:
        ValueError: More pixels than a float32 counts.
    """
    images, _, heads, channels = value_ESMC.shape
    offsets_2JMD = offsets_JMLP2.flatten(2, 3).permute(3, 0, 1, 2).contiguous()
    weights_JMD = weights_JMLP.flatten(2)
    if query_R is not None:
        offsets_2JMD, weights_JMD = offsets_2JMD[:, query_R], weights_JMD[query_R]
    around_2RD = _in_pixels(references_RLP2, level_shapes, points=weights_JMLP.shape[3])
    places_2RMD = _onto_the_border(around_2RD[:, :, None] + offsets_2JMD, level_shapes)
    pixels_2RMD = places_2RMD.floor()
    index_RMD4 = _corners(pixels_2RMD, level_shapes, images=images, image_R=image_R)
    weights_RMD4 = _corner_weights(places_2RMD - pixels_2RMD, weights_JMD)
    rows_RMXC = _bordered(value_ESMC, level_shapes)[index_RMD4].flatten(2, 3)
    return torch.matmul(weights_RMD4.flatten(2)[:, :, None], rows_RMXC).reshape(-1, heads * channels)


def _bordered(value_ESMC: Tensor, level_shapes: LevelShapes) -> Tensor:
    """A row for each pixel, border included, and head."""
    images, _, heads, channels = value_ESMC.shape
    sizes = [height * width for height, width in level_shapes]
    border = (0, 0, _BEFORE, _BEHIND, _BEFORE, _BEHIND)
    levels = [
        F.pad(tokens.reshape(images, height, width, heads * channels), border).flatten(1, 2)
        for tokens, (height, width) in zip(value_ESMC.split(sizes, 1), level_shapes, strict=True)
    ]
    return torch.cat(levels, 1).reshape(-1, channels)


def _in_pixels(references_RLP2: Tensor, level_shapes: LevelShapes, *, points: int) -> Tensor:
    """The references in pixels of the map with its border, (2, R, D)."""
    sizes_L2 = _tensor([(width, height) for height, width in level_shapes], references_RLP2)
    pixels_RLP2 = references_RLP2 * sizes_L2[:, None] + (_BEFORE - 0.5)
    return pixels_RLP2.expand(-1, -1, points, -1).flatten(1, 2).permute(2, 0, 1)


def _onto_the_border(places_2RMD: Tensor, level_shapes: LevelShapes) -> Tensor:
    last_2L = _tensor(list(zip(*((width + 1, height + 1) for height, width in level_shapes), strict=True)), places_2RMD)
    last_2D = last_2L.repeat_interleave(places_2RMD.shape[3] // len(level_shapes), 1)
    return torch.minimum(places_2RMD, last_2D[:, None, None]).relu()


def _corners(pixels_2RMD: Tensor, level_shapes: LevelShapes, *, images: int, image_R: Tensor) -> Tensor:
    """Rows of the four pixels of each sample, (R, M, D, 4); computed in floats, which hold these integers."""
    heads, points = pixels_2RMD.shape[2], pixels_2RMD.shape[3] // len(level_shapes)
    around = _BEFORE + _BEHIND
    sizes = [(height + around) * (width + around) for height, width in level_shapes]
    if (pixels := sum(sizes) * heads * images) > _COUNTED:
        raise ValueError(f"{pixels} rows of pixels and heads cannot be counted in float32: at most {_COUNTED}")
    starts_L = _tensor([sum(sizes[:level]) * heads for level in range(len(sizes))], pixels_2RMD)
    lines_D = _tensor([(width + around) * heads for _, width in level_shapes], pixels_2RMD).repeat_interleave(points)
    first_MD = starts_L.repeat_interleave(points) + torch.arange(heads, device=starts_L.device)[:, None]
    index = pixels_2RMD[1] * lines_D + pixels_2RMD[0] * heads + first_MD
    if images > 1:
        index = index + (image_R * (sum(sizes) * heads)).to(index.dtype)[:, None, None]
    below = index + lines_D
    return torch.stack([index, index + heads, below, below + heads], -1).int()


def _corner_weights(shares_2RMD: Tensor, weights_RMD: Tensor) -> Tensor:
    """What each of the four pixels counts, (R, M, D, 4)."""
    x, y = shares_2RMD[0], shares_2RMD[1]
    right = weights_RMD * x
    left = weights_RMD - right
    low_right, low_left = right * y, left * y
    return torch.stack([left - low_left, right - low_right, low_left, low_right], -1)


def _tensor(numbers: Sequence[object], like: Tensor) -> Tensor:
    return torch.tensor(numbers, dtype=like.dtype, device=like.device)
