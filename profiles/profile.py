"""The whole profile: every section of one run, frozen and hashed."""

from __future__ import annotations

import re
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from profiles.detectors.bevformer import BEVFormerProfile
from profiles.document import LONGEST_NAME, NAME, Document
from profiles.relations import contradictions
from profiles.sections.bit_plan import BitPlanProfile
from profiles.sections.calibration import CalibrationProfile
from profiles.sections.data import DataProfile
from profiles.sections.distillation import DistillationProfile
from profiles.sections.evaluation import EvaluationProfile
from profiles.sections.model import ModelProfile
from profiles.sections.quantization import QuantizationProfile
from profiles.sections.schedule import FloatSchedule, ProgressiveSchedule

Tracker = Literal["tensorboard", "wandb", "mlflow"]
Section = Literal[
    "model",
    "data",
    "quantization",
    "bit_plan",
    "calibration",
    "qat",
    "distillation",
    "float_training",
    "evaluation",
]


class Profile(Document):
    """What one run wants."""

    outside_digest: ClassVar[frozenset[str]] = frozenset({"device", "log_with", "overrides"})

    name: str = Field(default="unnamed", pattern=NAME, max_length=LONGEST_NAME)
    """Name in artifact folders and tables; a file's own name where it states none."""
    model: ModelProfile = BEVFormerProfile()
    """The detector; a plain word names a built-in model."""
    data: DataProfile = DataProfile()
    """The samples."""
    quantization: QuantizationProfile = QuantizationProfile()
    """Bits, scales and observers."""
    bit_plan: BitPlanProfile = BitPlanProfile()
    """How bits of their own are chosen for each layer."""
    calibration: CalibrationProfile = CalibrationProfile()
    """How ranges are first set."""
    qat: ProgressiveSchedule = ProgressiveSchedule()
    """Progressive quantization-aware training."""
    distillation: DistillationProfile = DistillationProfile()
    """View-guided distillation."""
    float_training: FloatSchedule = FloatSchedule()
    """Training of the float weights."""
    evaluation: EvaluationProfile = EvaluationProfile()
    """How detectors are scored."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seed of training: order of samples, augmentation, dropout."""
    device: str = "auto"
    """auto (a GPU where there is one), cpu, cuda or cuda:N."""
    log_with: tuple[Tracker, ...] = ("tensorboard",)
    """Who else gets the curve of a training as it grows: tensorboard, wandb, mlflow, several, or none ([])."""
    overrides: tuple[str, ...] = ()
    """What --set, --seed, --model and --device changed, as typed; filled in by loading."""

    @field_validator("model", mode="before")
    @classmethod
    def _bevformer_unless_stated(cls, content: Any) -> Any:
        """BEVFormer is meant where no kind of detector is stated."""
        return {"detector": "bevformer", **content} if isinstance(content, dict) else content

    @field_validator("log_with", mode="before")
    @classmethod
    def _alone_or_several(cls, value: Any) -> Any:
        """A plain word is a list of one."""
        return (value,) if isinstance(value, str) else value

    @field_validator("log_with")
    @classmethod
    def _each_once(cls, value: tuple[Tracker, ...]) -> tuple[Tracker, ...]:
        return tuple(dict.fromkeys(value))

    @model_validator(mode="after")
    def _fields_fit_each_other(self) -> Profile:
        if sentence := next(contradictions(self), None):
            raise ValueError(sentence)
        return self

    @field_validator("device")
    @classmethod
    def _known_device(cls, value: str) -> str:
        if not re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,3})?", value):
            raise ValueError("must be auto, cpu, cuda or cuda:N")
        return value

    def deciding(self, *sections: Section) -> dict[str, Any]:
        """The named sections as they enter the keys of artifacts.

        Args:
            sections: Such as ``"model", "quantization"``.

        Returns:
            Name -> plain JSON values; fields that change no result (cache folder, workers, logging) do not enter, nor
            where the model's weights are from: keys hold the digest of the artifact that has them. With the model
            goes the rig of the data, where it is not nuScenes'.
        """
        content: dict[str, Any] = {name: getattr(self, name).content() for name in sections}
        if "model" in content:
            content["model"] |= {"weights": None}
            content |= {name: value for name, value in self.data.content().items() if name == "rig"}
        return content
