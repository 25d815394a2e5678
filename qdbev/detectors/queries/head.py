"""What stands behind the neck of a detector of object queries: what it looks at, and what it decodes from that."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from qdbev.detectors.images.frame_batch import FrameBatch
from qdbev.detectors.queries.decoded import Decoded


class QueryHead(Protocol):
    """Everything after the neck."""

    levels: int
    """Neck levels that it reads, the finest first."""
    code_weights: torch.nn.Parameter
    """Weight of each number of a box code in the loss."""

    def encode(self, levels: list[Tensor], *, frames: FrameBatch) -> Any:
        """What the decoder looks at, of neck levels (B, N, C, H, W)."""

    def decode(self, encoded: Any, *, frames: FrameBatch) -> Decoded:
        """Logits, metric box codes and query features."""

    def decode_last(self, encoded: Any, *, frames: FrameBatch) -> Decoded:
        """The same of the last layer alone, which is all that prediction looks at."""
