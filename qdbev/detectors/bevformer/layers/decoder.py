"""The object decoder: queries attend to each other and to the BEV, their boxes refined layer by layer.

Deformable DETR (arXiv 2010.04159) with iterative refinement in three dimensions, as BEVFormer uses it.
Shapes: B samples, K object queries, Q BEV cells, C channels, M heads, P points, L decoder layers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qdbev.detectors.bevformer.layers.sampling_heads import sampling_layers
from qdbev.detectors.queries.feed_forward import FeedForward
from qdbev.detectors.queries.references import moved
from qdbev.detectors.queries.self_attention import ObjectSelfAttention
from qdbev.ops import Rows, deformable_attention


class BEVCrossAttention(nn.Module):
    """Deformable attention of the queries over the BEV features, with its residual."""

    def __init__(self, *, channels: int, heads: int, points: int, dropout: float) -> None:
        """Builds the four linear layers."""
        super().__init__()
        self.heads, self.points = heads, points
        self.sampling_offsets, self.attention_weights = sampling_layers(
            channels=channels, heads=heads, groups=1, points=points
        )
        self.value_proj = nn.Linear(channels, channels)
        self.output_proj = nn.Linear(channels, channels)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, query_BKC: Tensor, *, position_BKC: Tensor, bev_BQC: Tensor, reference_BK2: Tensor, rows: int
    ) -> Tensor:
        """(B, K, C) to the same; ``reference_BK2`` is (x, y) in fractions of the grid."""
        looking = query_BKC + position_BKC
        batch, queries, _ = query_BKC.shape
        out = deformable_attention(
            self.value_proj(bev_BQC).unflatten(-1, (self.heads, -1)),
            level_shapes=[(rows, bev_BQC.shape[1] // rows)],
            rows=Rows.own_image(images=batch, queries=queries, device=bev_BQC.device),
            references_RLP2=reference_BK2.reshape(-1, 1, 1, 2),
            offsets_JMLP2=self.sampling_offsets(looking).view(-1, self.heads, 1, self.points, 2),
            weights_JMLP=self.attention_weights(looking).view(-1, self.heads, 1, self.points).softmax(-1),
        )
        return query_BKC + self.dropout(self.output_proj(out.view_as(query_BKC)))


class DecoderLayer(nn.Module):
    """One layer; names as in the official checkpoints."""

    def __init__(self, *, channels: int, heads: int, hidden: int, points: int, dropout: float) -> None:
        """Builds both attentions, the feed-forward block and three norms."""
        super().__init__()
        among = ObjectSelfAttention(channels=channels, heads=heads, dropout=dropout)
        across = BEVCrossAttention(channels=channels, heads=heads, points=points, dropout=dropout)
        self.attentions = nn.ModuleList([among, across])
        self.ffns = nn.ModuleList([FeedForward(channels=channels, hidden=hidden, dropout=dropout)])
        self.norms = nn.ModuleList([nn.LayerNorm(channels) for _ in range(3)])

    def forward(
        self, query_BKC: Tensor, *, position_BKC: Tensor, bev_BQC: Tensor, reference_BK2: Tensor, rows: int
    ) -> Tensor:
        """Next queries from these."""
        x = self.norms[0](self.attentions[0](query_BKC, position_BKC=position_BKC))
        x = self.attentions[1](x, position_BKC=position_BKC, bev_BQC=bev_BQC, reference_BK2=reference_BK2, rows=rows)
        return self.norms[2](self.ffns[0](self.norms[1](x)))


class BEVFormerDecoder(nn.Module):
    """The layers in order, each starting from the boxes of the one before."""

    def __init__(self, layers: list[DecoderLayer]) -> None:
        """Takes the layers as built."""
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(
        self,
        query_BKC: Tensor,
        *,
        position_BKC: Tensor,
        bev_BQC: Tensor,
        reference_BK3: Tensor,
        reg_branches: nn.ModuleList,
        rows: int,
    ) -> tuple[Tensor, Tensor]:
        """All layers.

        The official code runs each regression branch twice on the same input, once here and once in the head; here it
        runs once and both use the result.

        Returns:
            Queries after each layer (L, B, K, C), and raw box codes (L, B, K, 10) whose centre is in fractions of the
            range, already moved from the reference that entered the layer.
        """
        states, codes = [], []
        x, reference = query_BKC, reference_BK3
        for layer, branch in zip(self.layers, reg_branches, strict=True):
            x = layer(x, position_BKC=position_BKC, bev_BQC=bev_BQC, reference_BK2=reference[..., :2], rows=rows)
            code = moved(branch(x).float(), reference_BK3=reference)
            reference = code[..., [0, 1, 4]].detach()
            states.append(x)
            codes.append(code)
        return torch.stack(states), torch.stack(codes)
