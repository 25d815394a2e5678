"""Self-attention among object queries.

Shapes: B samples, K object queries, C channels.
"""

from __future__ import annotations

from contextlib import nullcontext

from torch import Tensor, nn

from qdbev.detectors.images.projection import without_autocast


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
