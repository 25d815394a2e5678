"""DETR3D's look at the images: each query's reference point is projected, and every level sampled where it lands.

DETR3D (arXiv 2110.06922) section 3.3 and equations 5 to 7. What the official code does and the paper does not say: the
weight of each camera and level is a sigmoid and not a softmax, nothing is divided by the number of cameras that see a
point, and a point in the padded strip of an image counts as seen.

Shapes: B samples, N cameras, K object queries, C channels, P image levels, H W of a level.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qdbev.detectors.images.frame_batch import FrameBatch
from qdbev.detectors.images.projection import project_each
from qdbev.detectors.queries.references import inverse_sigmoid


@dataclass(frozen=True)
class View:
    """What the queries look at.

    Attributes:
        levels: neck levels (B, N, C, H, W), as they are: no projection of values.
        frames: the cameras.
        pc_range: x, y, z minimum then maximum [m], which references are fractions of.
    """

    levels: list[Tensor]
    frames: FrameBatch
    pc_range: tuple[float, ...]


class ImageCrossAttention(nn.Module):
    """Weighted sum of the image features at a query's reference point, with its residual and the point's encoding."""

    def __init__(self, *, channels: int, cameras: int, levels: int, dropout: float) -> None:
        """Builds the weights of cameras and levels, the output's projection and the encoding of reference points."""
        super().__init__()
        self.cameras, self.samples_per_query = cameras, cameras * levels
        self.attention_weights = nn.Linear(channels, cameras * levels)
        self.output_proj = nn.Linear(channels, channels)
        self.position_encoder = nn.Sequential(
            nn.Linear(3, channels),
            nn.LayerNorm(channels),
            nn.ReLU(inplace=True),
            nn.Linear(channels, channels),
            nn.LayerNorm(channels),
            nn.ReLU(inplace=True),
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, query_BKC: Tensor, *, position_BKC: Tensor, reference_BK3: Tensor, view: View) -> Tensor:
        """(B, K, C) to the same; ``reference_BK3`` is in fractions of the range."""
        if (cameras := view.frames.lidar2img_BN44.shape[1]) != self.cameras:
            raise ValueError(f"a frame has {cameras} cameras; this DETR3D weighs {self.cameras}, each in its place")
        logits = self.attention_weights(query_BKC + position_BKC).float()
        weights_BKNP = logits.unflatten(-1, (self.cameras, -1)).sigmoid()
        sampled_BNPCK, seen_BNK = sampled(reference_BK3, view=view)
        weights_BKNP = weights_BKNP * seen_BNK.permute(0, 2, 1)[..., None]
        weights_BNPCK = weights_BKNP.permute(0, 2, 3, 1)[:, :, :, None]
        summed_BKC = (sampled_BNPCK * weights_BNPCK).sum((1, 2)).transpose(1, 2)
        out_BKC = self.dropout(self.output_proj(summed_BKC.to(query_BKC.dtype)))
        return out_BKC + query_BKC + self.position_encoder(inverse_sigmoid(reference_BK3))


def sampled(reference_BK3: Tensor, *, view: View) -> tuple[Tensor, Tensor]:
    """Features (B, N, P, C, K) of every camera and level at the reference points, and which camera sees them (B, N, K).

    Gradients flow to the references.
    """
    low, high = (reference_BK3.new_tensor(view.pc_range[side]) for side in (slice(0, 3), slice(3, 6)))
    uv_BNKD2, seen_BNKD = project_each(
        reference_BK3 * (high - low) + low,
        lidar2img_BN44=view.frames.lidar2img_BN44,
        image_size_B2=view.frames.image_size_B2,
    )
    grid = ((uv_BNKD2 - 0.5) * 2).flatten(0, 1)
    maps = [
        F.grid_sample(level.flatten(0, 1).float(), grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        for level in view.levels
    ]
    sampled_BNPCK = torch.stack([each[..., 0].unflatten(0, seen_BNKD.shape[:2]) for each in maps], 2)
    return sampled_BNPCK.nan_to_num(), seen_BNKD[..., 0]
