"""Distillation: view-guided (QD-BEV, Zhang et al., ICCV 2023, Eq. 2 to 6; every reading a switch), and others.

The fields of the section itself are those of the view-guided objective; each other objective has a section of its own.
"""

from __future__ import annotations

from typing import ClassVar, Literal, get_args

from pydantic import Field, field_validator, model_validator

from profiles.document import Document
from profiles.sections.schedule import Schedule

OtherObjective = Literal["cwd_image", "cwd_bev", "fitnet_image", "fitnet_bev", "output_class", "output_box"]
ObjectiveName = Literal["vgd", OtherObjective]
OBJECTIVE_WORDS: dict[str, str] = {
    "vgd": "VGD",
    "cwd_image": "CWD image",
    "cwd_bev": "CWD BEV",
    "fitnet_image": "hints image",
    "fitnet_bev": "hints BEV",
    "output_class": "classes",
    "output_box": "boxes",
}
"""Objective -> what tables call it."""


class DistillationSchedule(Schedule):
    """The schedule of the distillation phase, with the supplement's learning rates."""

    learning_rate: float = Field(default=1e-5, gt=0)
    """Peak learning rate."""
    backbone_multiplier: float = Field(default=0.5, ge=0)
    """Factor on the learning rate of the image backbone."""
    range_multiplier: float = Field(default=10.0, ge=0)
    """Factor on the learning rate of learned ranges, which are logarithms: 0.01 moves a range by a hundredth."""


class Weighed(Document):
    """An objective's weight."""

    weight: float | Literal["auto"] = Field(default="auto")
    """Factor on the objective, at least 0; auto sets it from the first steps and records it."""
    auto_share: float = Field(default=0.05, gt=0, le=10)
    """With weight auto: the objective starts at this share of the detection loss."""

    @field_validator("weight")
    @classmethod
    def _never_negative(cls, value: float | str) -> float | str:
        if not isinstance(value, str) and value < 0:
            raise ValueError("must be auto or a number of at least 0")
        return value


class ChannelWise(Weighed):
    """Channel-wise distillation (Shu et al., ICCV 2021) of one side's features."""

    temperature: float = Field(default=1.0, gt=0)
    """Softmax temperature."""


class Hint(Weighed):
    """Mean squared error of one side's features (FitNets, Romero et al., ICLR 2015)."""


class Outputs(Weighed):
    """What the decoder puts out, query by query."""

    layers: Literal["last", "all"] = "last"
    """Decoder layers that count: the last one, which boxes are taken from, or the mean over all."""
    weighting: Literal["score", "uniform"] = "score"
    """Queries count by the teacher's largest class score (as BEVDistill weighs its instances), or alike."""


class ClassOutput(Outputs):
    """Class scores, the teacher's as soft labels (Hinton et al., 2015)."""

    temperature: float = Field(default=1.0, gt=0)
    """Temperature of the sigmoids."""


class DistillationProfile(Weighed):
    """What the quantized detector learns from its teacher, the frozen float detector, and the training of it."""

    later: ClassVar[frozenset[str]] = frozenset(
        {"objectives", *get_args(OtherObjective), "cache_teacher", "cache_limit_gb"}
    )

    objectives: tuple[ObjectiveName, ...] = ("vgd",)
    """Losses beside the detection loss, each with a weight: vgd, or those with a section of their own below."""
    temperature: float = Field(default=1.0, gt=0)
    """Softmax temperature tau of Eq. 2."""
    image_axis: Literal["spatial", "channel", "everything"] = "spatial"
    """What image features are normalised over: places of a channel, channels of a place, or a camera's whole map."""
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
    combine: Literal["product", "additive", "image_only", "bev_only"] = "product"
    """Eq. 6 as printed; for ablation the sum of both losses, or one of them."""
    detach: Literal["image", "bev"] | None = None
    """The factor of the product that carries no gradient; null lets both, and is needed where combine is additive."""
    auto_steps: int = Field(default=8, ge=1)
    """With weight auto, of any objective: steps over which both losses are averaged to set the weight."""
    cwd_image: ChannelWise = ChannelWise()
    """Channel-wise distillation of the image features."""
    cwd_bev: ChannelWise = ChannelWise()
    """Channel-wise distillation of the BEV features."""
    fitnet_image: Hint = Hint()
    """Hints of the image features."""
    fitnet_bev: Hint = Hint()
    """Hints of the BEV features."""
    output_class: ClassOutput = ClassOutput()
    """Distillation of class scores."""
    output_box: Outputs = Outputs()
    """Distillation of box codes: L1 with the code weights of the detection loss."""
    cache_teacher: Literal["never", "auto", "always"] = "never"
    """Keep what the teacher gives for a sample on disk, in the cache of data: auto where augmentation, queue and limit
    allow it, always refuses where they do not. The teacher then sees samples one by one, which moves the last bits."""
    cache_limit_gb: float = Field(default=50.0, gt=0)
    """Largest size of what is kept of the teacher, by the estimate that --dry-run prints, in 10^9 bytes."""
    schedule: DistillationSchedule = DistillationSchedule()
    """The training of this phase."""

    def settings(self, name: ObjectiveName) -> Weighed:
        """The section of an objective; that of ``vgd`` is this one."""
        section: Weighed = self if name == "vgd" else getattr(self, name)
        return section

    @field_validator("objectives")
    @classmethod
    def _some_and_each_once(cls, value: tuple[ObjectiveName, ...]) -> tuple[ObjectiveName, ...]:
        if not value or len(set(value)) < len(value):
            raise ValueError("must name at least one, and each once")
        return value

    @model_validator(mode="after")
    def _only_a_product_has_factors(self) -> DistillationProfile:
        if self.detach is not None and self.combine != "product":
            raise ValueError(f"detach is {self.detach}; it must be null where combine is {self.combine}")
        return self
