"""The object decoder: queries attend to each other and to the BEV, their boxes refined layer by layer.

Deformable DETR (arXiv 2010.04159) with iterative refinement in three dimensions, as BEVFormer uses it.
Shapes: B samples, K object queries, Q BEV cells, C channels, M heads, P points, L decoder layers.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor, nn

from qdbev.detectors.bevformer.frames.geometry import without_autocast
from qdbev.detectors.bevformer.layers.feed_forward import FeedForward
from qdbev.detectors.bevformer.layers.sampling_heads import sampling_layers
from qdbev.detectors.boxes.box_code import CODE_SIZE
from qdbev.ops import Rows, deformable_attention


def inverse_sigmoid(x: Tensor) -> Tensor:
    """log(x / (1 - x)) with both kept above 1e-5, in float32.

    >>> inverse_sigmoid(torch.tensor([0.5, 0.0])).round(decimals=3).tolist()
    [0.0, -11.512999534606934]
    """
    x = x.float().clamp(0, 1)
    return (x.clamp(min=1e-5) / (1 - x).clamp(min=1e-5)).log()


class ObjectSelfAttention(nn.Module):
    """Multi-head attention among the queries with its residual; the position joins queries and keys, not the values."""

    def __init__(self, *, channels: int, heads: int, dropout: float) -> None:
        """Builds torch's attention under the official name ``attn``."""
        super().__init__()
        self.attn = nn.MultiheadAttention(channels, heads, dropout=dropout, batch_first=True)
        self.dropout = nn.Dropout(dropout)

    def forward(self, query_BKC: Tensor, *, position_BKC: Tensor) -> Tensor:
        """(B, K, C) to the same."""
        looking = query_BKC + position_BKC
        # torch's half-precision attention takes three times as long as float32 in the backward pass on a CPU
        with without_autocast(query_BKC.device) if query_BKC.device.type in ("cpu", "meta") else nullcontext():
            attended = self.attn(looking, looking, query_BKC, need_weights=False)[0]
        return query_BKC + self.dropout(attended)


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


def moved(raw_BK10: Tensor, *, reference_BK3: Tensor) -> Tensor:
    """Adds the reference to the raw centre in logit space: centre entries 0, 1 and 4 leave as fractions in (0, 1)."""
    if raw_BK10.shape[-1] != CODE_SIZE:
        raise ValueError(f"a box code has {CODE_SIZE} numbers, the regression branch gave {raw_BK10.shape[-1]}")
    logit = inverse_sigmoid(reference_BK3)
    xy = (raw_BK10[..., 0:2] + logit[..., 0:2]).sigmoid()
    z = (raw_BK10[..., 4:5] + logit[..., 2:3]).sigmoid()
    return torch.cat([xy, raw_BK10[..., 2:4], z, raw_BK10[..., 5:]], -1)
