"""Feed-forward block of a transformer layer with its residual."""

from __future__ import annotations

from torch import Tensor, nn


class FeedForward(nn.Module):
    """Linear, ReLU, dropout, linear, dropout, plus the input. Official names: ``layers.0.0`` and ``layers.1``."""

    def __init__(self, *, channels: int, hidden: int, dropout: float) -> None:
        """Builds channels -> hidden -> channels."""
        super().__init__()
        inner = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(inplace=True), nn.Dropout(dropout))
        self.layers = nn.Sequential(inner, nn.Linear(hidden, channels), nn.Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        """(..., channels) to the same."""
        return x + self.layers(x)
