"""Spatial cross-attention: a BEV cell looks into the images at the projections of its pillar; BEVFormer equation 4.

Shapes: B samples, N cameras, Q BEV cells, S image tokens, C channels, R pairs of a cell and a camera
that sees it, D heights, M heads, L levels, P points.
"""

from __future__ import annotations

from torch import Tensor, nn

from qdbev.detectors.bevformer.frames.geometry import Visibility
from qdbev.detectors.bevformer.layers.sampling_heads import sampling_layers
from qdbev.ops import deformable_attention


class PillarDeformableAttention(nn.Module):
    """Deformable attention whose P points are spread over the D heights of the pillar: point p uses height p mod D."""

    def __init__(self, *, channels: int, heads: int, levels: int, points: int, heights: int) -> None:
        """Builds the three linear layers.

        Raises:
            ValueError: ``points`` is no multiple of ``heights``.
        """
        super().__init__()
        if points % heights:
            raise ValueError(f"points is {points}, expected a multiple of the {heights} heights of a pillar")
        self.heads, self.levels, self.points, self.heights = heads, levels, points, heights
        self.sampling_offsets, self.attention_weights = sampling_layers(
            channels=channels, heads=heads, groups=levels, points=points
        )
        self.value_proj = nn.Linear(channels, channels)

    def forward(
        self, query_BQC: Tensor, *, tokens_BNSC: Tensor, level_shapes: list[tuple[int, int]], seen: Visibility
    ) -> Tensor:
        """(B, Q, C): the sum of what the cameras show to each cell.

        Offsets and weights depend on the query alone, so they are computed once per cell, not once per camera.
        """
        weights = self.attention_weights(query_BQC).view(-1, self.heads, self.levels * self.points).softmax(-1)
        value = self.value_proj(tokens_BNSC).flatten(0, 1).unflatten(-1, (self.heads, -1))
        total = deformable_attention(
            value,
            level_shapes=level_shapes,
            rows=seen.rows,
            references_RLP2=seen.references_RD2.repeat(1, self.points // self.heights, 1)[:, None],
            offsets_JMLP2=self.sampling_offsets(query_BQC).view(-1, self.heads, self.levels, self.points, 2),
            weights_JMLP=weights.unflatten(-1, (self.levels, self.points)),
        )
        return total.view_as(query_BQC)


class SpatialCrossAttention(nn.Module):
    """Mean over the cameras that see a cell, projected, with its residual. Unseen cells get the projection of zero."""

    def __init__(self, *, channels: int, heads: int, levels: int, points: int, heights: int, dropout: float) -> None:
        """Builds the attention and the output projection."""
        super().__init__()
        self.deformable_attention = PillarDeformableAttention(
            channels=channels, heads=heads, levels=levels, points=points, heights=heights
        )
        self.output_proj = nn.Linear(channels, channels)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, query_BQC: Tensor, *, tokens_BNSC: Tensor, level_shapes: list[tuple[int, int]], seen: Visibility
    ) -> Tensor:
        """One pass; the query carries no positional encoding here."""
        total_BQC = self.deformable_attention(query_BQC, tokens_BNSC=tokens_BNSC, level_shapes=level_shapes, seen=seen)
        return query_BQC + self.dropout(self.output_proj(total_BQC / seen.cameras_BQ[..., None]))
