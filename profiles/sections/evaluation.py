"""Evaluation: the split scored and how."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from profiles.document import Document

FEWEST_SCENES = 5
"""Of fewer scenes no interval is made: drawn again from themselves they say little of others."""

TELLING_SCENES = 20
"""Scores of fewer are called a trial by the report."""


class EvaluationProfile(Document):
    """Streaming evaluation by nuscenes-devkit: scenes in order, history carried from frame to frame."""

    outside_digest: ClassVar[frozenset[str]] = frozenset({"streams"})

    split: Literal["val", "train", "mini_val", "mini_train", "test"] = "val"
    """Split that is scored; calibration and training never see its samples. Of test only the submission is written."""
    streams: int = Field(default=8, ge=1, le=1024)
    """Scenes evaluated side by side in one batch, each with its own history."""
    bootstrap_resamples: int = Field(default=200, ge=0, le=100_000)
    """Resamples of scenes behind every interval; 0 gives no interval."""
    max_boxes: int = Field(default=300, ge=1, le=500)
    """Boxes submitted per sample, best scores first."""
