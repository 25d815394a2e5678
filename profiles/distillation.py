"""View-guided distillation (QD-BEV, Zhang et al., ICCV 2023, Eq. 2 to 6): every reading of it is a switch here."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from .document import Document
from .schedule import Schedule


class DistillationSchedule(Schedule):
    """The schedule of the distillation phase, with the supplement's learning rates."""

    learning_rate: float = Field(default=1e-5, gt=0)
    """Peak learning rate."""
    backbone_multiplier: float = Field(default=0.5, ge=0)
    """Factor on the learning rate of the image backbone."""
    range_multiplier: float = Field(default=10.0, ge=0)
    """Factor on the learning rate of learned ranges, which are logarithms: 0.01 moves a range by a hundredth."""


class DistillationProfile(Document):
    """The view-guided objective and its training; teacher is the float detector, frozen."""

    temperature: float = Field(default=1.0, gt=0)
    """Softmax temperature tau of Eq. 2."""
    image_axis: Literal["spatial", "channel"] = "spatial"
    """What image features are normalised over: positions of a channel, or channels of a position."""
    bev_axis: Literal["channel", "spatial"] = "channel"
    """The same for BEV features."""
    pointwise: Literal["kl", "generalised_kl"] = "kl"
    """Per-element term: p log(p/q), or p log(p/q) - p + q, which is never negative."""
    normaliser: Literal["paper", "cwd_sum"] = "paper"
    """Divide by all element counts as Eq. 3 and 4 print, or sum as channel-wise distillation does."""
    batch: Literal["per_sample", "paper_literal"] = "per_sample"
    """Multiply image and BEV losses per sample and then average, or average first."""
    mask: Literal["mean", "any"] = "mean"
    """Visibility of a BEV cell in a camera: share of its pillar heights inside the image, or any of them."""
    combine: Literal["product", "additive"] = "product"
    """Eq. 6 as printed, or the sum of both losses (ablation)."""
    detach: Literal["image", "bev"] | None = None
    """The factor of the product that carries no gradient; null lets both, and is needed where combine is additive."""
    weight: float | Literal["auto"] = Field(default="auto")
    """Factor on the objective, at least 0; auto sets it from the first steps and records it."""
    auto_share: float = Field(default=0.05, gt=0, le=10)
    """With weight auto: the objective starts at this share of the detection loss."""
    auto_steps: int = Field(default=8, ge=1)
    """With weight auto: steps over which both losses are averaged to set the weight."""
    schedule: DistillationSchedule = DistillationSchedule()
    """The training of this phase."""

    @field_validator("weight")
    @classmethod
    def _never_negative(cls, value: float | str) -> float | str:
        if not isinstance(value, str) and value < 0:
            raise ValueError("must be auto or a number of at least 0")
        return value

    @model_validator(mode="after")
    def _only_a_product_has_factors(self) -> DistillationProfile:
        if self.detach is not None and self.combine != "product":
            raise ValueError(f"detach is {self.detach}; it must be null where combine is {self.combine}")
        return self
