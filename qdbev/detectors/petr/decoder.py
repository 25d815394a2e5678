"""PETR's decoder: queries attend to each other and to all image cells of all cameras.

Shapes: B samples, K object queries, S image cells of all cameras, E channels, L decoder layers.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from qdbev.detectors.images.projection import without_autocast
from qdbev.detectors.queries.feed_forward import FeedForward
from qdbev.detectors.queries.self_attention import ObjectSelfAttention


@dataclass(frozen=True)
class Memory:
    """What the queries look at, and where they are themselves.

    Attributes:
        cells_BSE: image cells, camera by camera, row by row.
        position_BSE: their positions; they join the keys, not the values.
        query_position_KE: positions of the queries.
        padded_BS: True for cells that are not looked at; None where there are none.
    """

    cells_BSE: Tensor
    position_BSE: Tensor
    query_position_KE: Tensor
    padded_BS: Tensor | None


class CellCrossAttention(nn.Module):
    """Multi-head attention of the queries over all image cells, with its residual."""

    def __init__(self, *, channels: int, heads: int, dropout: float) -> None:
        """Builds torch's attention under the official name ``attn``."""
        super().__init__()
        self.attn = nn.MultiheadAttention(channels, heads, dropout=dropout, batch_first=True)
        self.dropout = nn.Dropout(dropout)

    def forward(self, query_BKE: Tensor, *, position_BKE: Tensor, memory: Memory) -> Tensor:
        """(B, K, E) to the same."""
        # torch's half-precision attention takes three times as long as float32 in the backward pass on a CPU
        with without_autocast(query_BKE.device) if query_BKE.device.type in ("cpu", "meta") else nullcontext():
            attended = self.attn(
                query_BKE + position_BKE,
                memory.cells_BSE + memory.position_BSE,
                memory.cells_BSE,
                key_padding_mask=memory.padded_BS,
                need_weights=False,
            )[0]
        return query_BKE + self.dropout(attended)


class DecoderLayer(nn.Module):
    """One layer; names as in the official checkpoints."""

    def __init__(self, *, channels: int, heads: int, hidden: int, dropout: float) -> None:
        """Builds both attentions, the feed-forward block and three norms."""
        super().__init__()
        among = ObjectSelfAttention(channels=channels, heads=heads, dropout=dropout)
        across = CellCrossAttention(channels=channels, heads=heads, dropout=dropout)
        self.attentions = nn.ModuleList([among, across])
        self.ffns = nn.ModuleList([FeedForward(channels=channels, hidden=hidden, dropout=dropout)])
        self.norms = nn.ModuleList([nn.LayerNorm(channels) for _ in range(3)])

    def forward(self, query_BKE: Tensor, *, position_BKE: Tensor, memory: Memory) -> Tensor:
        """Next queries from these."""
        x = self.norms[0](self.attentions[0](query_BKE, position_BKC=position_BKE))
        x = self.norms[1](self.attentions[1](x, position_BKE=position_BKE, memory=memory))
        return self.norms[2](self.ffns[0](x))


class PETRDecoder(nn.Module):
    """The layers in order; queries start from zeros, and a norm that all layers share looks at each one's outcome."""

    def __init__(self, layers: list[DecoderLayer], *, channels: int) -> None:
        """Takes the layers as built."""
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.post_norm = nn.LayerNorm(channels)

    def forward(self, memory: Memory) -> Tensor:
        """Normed queries after each layer (L, B, K, E); a layer starts from the un-normed ones of the layer before."""
        position_BKE = memory.query_position_KE.expand(len(memory.cells_BSE), -1, -1)
        x, states = torch.zeros_like(position_BKE), []
        for layer in self.layers:
            x = layer(x, position_BKE=position_BKE, memory=memory)
            states.append(self.post_norm(x))
        return torch.stack(states).nan_to_num()


class PETRTransformer(nn.Module):
    """The decoder under its official name."""

    def __init__(self, decoder: PETRDecoder) -> None:
        """Takes the decoder as built."""
        super().__init__()
        self.decoder = decoder
