"""DETR3D's decoder: queries attend to each other and look at the images, their boxes refined layer by layer.

Shapes: B samples, K object queries, C channels, L decoder layers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qdbev.detectors.detr3d.image_attention import ImageCrossAttention, View
from qdbev.detectors.queries.feed_forward import FeedForward
from qdbev.detectors.queries.references import moved
from qdbev.detectors.queries.self_attention import ObjectSelfAttention


class DecoderLayer(nn.Module):
    """One layer; names as in the official checkpoints."""

    def __init__(self, *, channels: int, heads: int, hidden: int, cameras: int, levels: int, dropout: float) -> None:
        """Builds both attentions, the feed-forward block and three norms."""
        super().__init__()
        among = ObjectSelfAttention(channels=channels, heads=heads, dropout=dropout)
        across = ImageCrossAttention(channels=channels, cameras=cameras, levels=levels, dropout=dropout)
        self.attentions = nn.ModuleList([among, across])
        self.ffns = nn.ModuleList([FeedForward(channels=channels, hidden=hidden, dropout=dropout)])
        self.norms = nn.ModuleList([nn.LayerNorm(channels) for _ in range(3)])

    def forward(self, query_BKC: Tensor, *, position_BKC: Tensor, reference_BK3: Tensor, view: View) -> Tensor:
        """Next queries from these."""
        x = self.norms[0](self.attentions[0](query_BKC, position_BKC=position_BKC))
        x = self.attentions[1](x, position_BKC=position_BKC, reference_BK3=reference_BK3, view=view)
        return self.norms[2](self.ffns[0](self.norms[1](x)))


class Detr3DDecoder(nn.Module):
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
        reference_BK3: Tensor,
        view: View,
        reg_branches: nn.ModuleList,
    ) -> tuple[Tensor, Tensor]:
        """All layers; the official code runs each regression branch twice on the same input, here it runs once.

        Returns:
            Queries after each layer (L, B, K, C), and box codes (L, B, K, 10) whose centre is in fractions of the
            range, already moved from the reference that entered the layer.
        """
        states, codes = [], []
        x, reference = query_BKC, reference_BK3
        for layer, branch in zip(self.layers, reg_branches, strict=True):
            x = layer(x, position_BKC=position_BKC, reference_BK3=reference, view=view)
            code = moved(branch(x).float(), reference_BK3=reference)
            reference = code[..., [0, 1, 4]].detach()
            states.append(x)
            codes.append(code)
        return torch.stack(states), torch.stack(codes)


class Detr3DTransformer(nn.Module):
    """The decoder and the layer that turns a query's position into its first reference; official names."""

    def __init__(self, *, channels: int, decoder: Detr3DDecoder) -> None:
        """Takes the decoder as built."""
        super().__init__()
        self.decoder = decoder
        self.reference_points = nn.Linear(channels, 3)

    def first_references(self, position_KC: Tensor) -> Tensor:
        """(K, 3) in fractions of the range."""
        references: Tensor = self.reference_points(position_KC).float().sigmoid()
        return references
