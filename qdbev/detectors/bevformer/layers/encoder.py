"""The BEV encoder: layers of temporal self-attention, spatial cross-attention and a feed-forward block, post-norm.

Shapes: B samples, N cameras, Q BEV cells, S image tokens, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from qdbev.detectors.bevformer.frames.geometry import Visibility
from qdbev.detectors.bevformer.layers.spatial_cross_attention import SpatialCrossAttention
from qdbev.detectors.bevformer.layers.temporal_self_attention import Past, TemporalSelfAttention
from qdbev.detectors.queries.feed_forward import FeedForward


@dataclass(frozen=True)
class View:
    """What the encoder reads besides its queries.

    Attributes:
        tokens_BNSC: image tokens of all levels, with camera and level embeddings.
        level_shapes: (H, W) of each level.
        seen: which cells which camera sees.
        position_QC: positional encoding of the grid.
        cells_Q2: cell centres in fractions of the grid.
        rows: rows of the grid.
    """

    tokens_BNSC: Tensor
    level_shapes: list[tuple[int, int]]
    seen: Visibility
    position_QC: Tensor
    cells_Q2: Tensor
    rows: int


class EncoderLayer(nn.Module):
    """One layer; names as in the official checkpoints."""

    def __init__(
        self,
        *,
        channels: int,
        heads: int,
        hidden: int,
        levels: int,
        temporal_points: int,
        spatial_points: int,
        heights: int,
        dropout: float,
    ) -> None:
        """Builds both attentions, the feed-forward block and three norms."""
        super().__init__()
        temporal = TemporalSelfAttention(channels=channels, heads=heads, points=temporal_points, dropout=dropout)
        spatial = SpatialCrossAttention(
            channels=channels, heads=heads, levels=levels, points=spatial_points, heights=heights, dropout=dropout
        )
        self.attentions = nn.ModuleList([temporal, spatial])
        self.ffns = nn.ModuleList([FeedForward(channels=channels, hidden=hidden, dropout=dropout)])
        self.norms = nn.ModuleList([nn.LayerNorm(channels) for _ in range(3)])

    def forward(self, query_BQC: Tensor, *, first_BQC: Tensor, past: Past | None, view: View) -> Tensor:
        """Next queries from these."""
        x = self.attentions[0](
            query_BQC,
            first_BQC=first_BQC,
            position_QC=view.position_QC,
            past=past,
            cells_Q2=view.cells_Q2,
            rows=view.rows,
        )
        x = self.norms[0](x)
        x = self.attentions[1](x, tokens_BNSC=view.tokens_BNSC, level_shapes=view.level_shapes, seen=view.seen)
        x = self.norms[1](x)
        return self.norms[2](self.ffns[0](x))


class BEVFormerEncoder(nn.Module):
    """The layers in order."""

    def __init__(self, layers: list[EncoderLayer]) -> None:
        """Takes the layers as built."""
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, query_BQC: Tensor, *, past: Past | None, view: View) -> Tensor:
        """BEV features (B, Q, C) from BEV queries."""
        x = query_BQC
        for layer in self.layers:
            x = layer(x, first_BQC=query_BQC, past=past, view=view)
        return x
