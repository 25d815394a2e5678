"""Temporal self-attention: a BEV cell looks at the history BEV and at the current one; BEVFormer equation 5.

Shapes: B samples, Q BEV cells, C channels, M heads, P points; an axis of 2 before the last is
(history, current), X is (x, y).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from qdbev.detectors.bevformer.layers.sampling_heads import sampling_layers
from qdbev.ops import Rows, deformable_attention


@dataclass(frozen=True)
class Past:
    """The aligned history of a batch.

    Attributes:
        bev_BQC: history BEV, already rotated; rows of samples without history are ignored.
        present: which samples have a history; in an exported graph a tensor.
        shift_B2: ego motion in fractions of the grid, zero where there is no history.
    """

    bev_BQC: Tensor
    present: tuple[bool, ...] | Tensor
    shift_B2: Tensor


class TemporalSelfAttention(nn.Module):
    """Deformable attention over the pair (history, current), averaged over the pair, with its residual."""

    def __init__(self, *, channels: int, heads: int, points: int, dropout: float) -> None:
        """Builds the four linear layers; both sampling layers read history and query side by side."""
        super().__init__()
        self.heads, self.points = heads, points
        self.sampling_offsets, self.attention_weights = sampling_layers(
            channels=2 * channels, heads=heads, groups=2, points=points
        )
        self.value_proj = nn.Linear(channels, channels)
        self.output_proj = nn.Linear(channels, channels)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        query_BQC: Tensor,
        *,
        first_BQC: Tensor,
        position_QC: Tensor,
        past: Past | None,
        cells_Q2: Tensor,
        rows: int,
    ) -> Tensor:
        """One pass.

        With a history the pair is (history, ENCODER input) in every layer, as the official code has it; without one it
        is (query, query). A batch may mix both: each sample then computes what it would compute alone.

        Args:
            query_BQC: Input of this encoder layer.
            first_BQC: Input of the first encoder layer.
            position_QC: Positional encoding, added to the query but not to the values.
            past: Aligned history, or None where no sample has one.
            cells_Q2: Cell centres in fractions of the grid.
            rows: Rows of the grid, Q = rows * columns.
        """
        history, current, points_BQ2X = _pair(query_BQC, first_BQC, past, cells_Q2)
        batch, cells, _ = query_BQC.shape
        looking = torch.cat([history, query_BQC + position_QC], -1)
        offsets = self.sampling_offsets(looking).view(-1, self.heads, 2, self.points, 2)
        weights = self.attention_weights(looking).view(-1, self.heads, 2, self.points).softmax(-1)
        value = self.value_proj(torch.stack([history, current], 1)).view(batch, 2 * cells, self.heads, -1)
        # the mean over the pair: both maps are levels of one attention whose weights sum to one
        mixed = deformable_attention(
            value,
            level_shapes=[(rows, cells // rows)] * 2,
            rows=Rows.own_image(images=batch, queries=cells, device=value.device),
            references_RLP2=points_BQ2X.view(batch * cells, 2, 1, 2),
            offsets_JMLP2=offsets,
            weights_JMLP=weights * 0.5,
        )
        return query_BQC + self.dropout(self.output_proj(mixed.view_as(query_BQC)))


def _pair(query_BQC: Tensor, first_BQC: Tensor, past: Past | None, cells_Q2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    cells_BQ2 = cells_Q2.expand(len(query_BQC), -1, -1)
    if past is None:
        return query_BQC, query_BQC, torch.stack([cells_BQ2, cells_BQ2], 2)
    points_BQ2X = torch.stack([cells_BQ2 + past.shift_B2[:, None], cells_BQ2], 2)
    history = past.bev_BQC.to(query_BQC.dtype)
    if not isinstance(past.present, Tensor) and all(past.present):
        return history, first_BQC, points_BQ2X
    present = torch.as_tensor(past.present, device=query_BQC.device)[:, None, None]
    return torch.where(present, history, query_BQC), torch.where(present, first_BQC, query_BQC), points_BQ2X
