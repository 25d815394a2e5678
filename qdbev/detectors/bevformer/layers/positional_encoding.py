"""Learned positional encoding of the BEV grid: a vector per column and a vector per row, concatenated.

Shapes: Q BEV cells (row by row), C channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LearnedPositionalEncoding(nn.Module):
    """Half of the channels say the column (x), half the row (y)."""

    def __init__(self, *, rows: int, columns: int, channels: int) -> None:
        """Makes the two tables; ``channels`` is the sum of both halves."""
        super().__init__()
        self.row_embed = nn.Embedding(rows, channels // 2)
        self.col_embed = nn.Embedding(columns, channels // 2)

    def forward(self) -> Tensor:
        """(Q, C)."""
        device = self.row_embed.weight.device
        rows_H = self.row_embed(torch.arange(self.row_embed.num_embeddings, device=device))
        columns_W = self.col_embed(torch.arange(self.col_embed.num_embeddings, device=device))
        height, width = len(rows_H), len(columns_W)
        columns = columns_W[None].expand(height, -1, -1)
        rows = rows_H[:, None].expand(-1, width, -1)
        return torch.cat([columns, rows], -1).flatten(0, 1)
