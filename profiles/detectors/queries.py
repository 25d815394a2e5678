"""Object queries and their boxes, of every detector of the DETR family."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from profiles.document import Document

MOST_BOXES = 300
"""Boxes that a detector of object queries gives for a sample at most, as the official ones do."""


class HeadProfile(Document):
    """Queries and boxes."""

    queries: int = Field(default=900, ge=1, le=10_000)
    """Object queries."""
    query_init: Literal["random", "grid"] = "random"
    """First object positions: random (official), or spread over the range; matters for training from scratch."""
    code_weights: tuple[float, ...] = Field(default=(1, 1, 1, 1, 1, 1, 1, 1, 0.2, 0.2), min_length=10, max_length=10)
    """Weights in the L1 loss of cx, cy, log w, log l, cz, log h, sin yaw, cos yaw, vx, vy."""
    motion_weight: float = Field(default=0.0, ge=0)
    """Weight of a squared error of the matched queries' heading and velocity; the official losses have none."""
