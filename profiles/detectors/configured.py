"""A detector of somebody else's: an mmdet3d config, and which of its modules are backbone, neck, encoder, decoder."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, JsonValue, model_validator

from profiles.detectors.bevformer import BEVFormerProfile
from profiles.detectors.config_files import config_digest
from profiles.detectors.detector import DetectorProfile
from profiles.document import Document
from profiles.home import expanded


class PartsProfile(Document):
    """The paper's four parts as paths of modules or parameters; together all parameters, a part may be empty."""

    backbone: tuple[str, ...] = ()
    """Paths of the backbone; its learning rate has its own multiplier, and it is quantized first."""
    neck: tuple[str, ...] = ()
    """Paths of the neck."""
    encoder: tuple[str, ...] = ()
    """Paths of the encoder, of voxels or of the bird's-eye view."""
    decoder: tuple[str, ...] = ()
    """Paths of the decoder or the box head, which is quantized last."""


class TapsProfile(Document):
    """Where a detector's features are, for distillation: paths of modules whose output they are."""

    image: str | None = None
    """Path of the module that gives image features, one map or several levels (views, channels, height, width)."""
    bev: str | None = None
    """Path of the module that gives bird's-eye-view features: (frames, channels, rows, columns), or cell by cell."""


class ConfigProfile(Document):
    """A detector by its mmdet3d config."""

    outside_digest: ClassVar[frozenset[str]] = frozenset({"config"})
    later: ClassVar[frozenset[str]] = frozenset({"taps"})

    config: str | None = None
    """The config file; a relative path is seen from the YAML file that states it."""
    config_sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """Digest of the config and of what it is based on; filled in by loading, and refused where the file differs."""
    options: dict[str, JsonValue] = Field(default={})
    """Laid over the config, dotted names to values, as mmengine's cfg-options."""
    parts: PartsProfile = PartsProfile()
    """Which of its modules are which part."""
    taps: TapsProfile = TapsProfile()
    """Which of its modules give the features that distillation compares; none: it cannot be distilled."""
    output_layers: tuple[str, ...] = ()
    """Paths (or patterns) of the last layers, for quantization.first_last_bits; none: the last layer of the plan."""

    @model_validator(mode="before")
    @classmethod
    def _with_digest(cls, content: Any) -> Any:
        if not isinstance(content, dict) or not isinstance(content.get("config"), str):
            return content
        path = expanded(content["config"])
        digest = config_digest(path.resolve())
        stated = content.get("config_sha256")
        if stated not in (None, digest):
            differ = f"its sha256 is {digest[:12]}..., not {str(stated)[:12]}..."
            raise ValueError(f"config {path} is not the one meant: {differ}")
        return {**content, "config_sha256": digest}


_OF_BEVFORMER = {
    name: value for name, value in BEVFormerProfile().content().items() if name not in DetectorProfile.model_fields
}
"""Sections that manifests of configured detectors hold from when all kinds had one section together, always these."""


class ConfiguredProfile(DetectorProfile):
    """Any detector of mmdet3d, described by its config."""

    detector: Literal["mmdet3d"] = "mmdet3d"
    """mmdet3d, or bevformer, which has fields of its own."""
    mmdet3d: ConfigProfile = ConfigProfile()
    """The config and the parts."""

    def content(self) -> dict[str, Any]:
        """The fields that decide a result, and BEVFormer's as they stood beside them when the first keys were made."""
        return _OF_BEVFORMER | super().content()

    @property
    def backbone_paths(self) -> tuple[str, ...]:
        """Paths of the backbone's modules, as stated."""
        return self.mmdet3d.parts.backbone

    @property
    def empty_parts(self) -> tuple[str, ...]:
        """Parts that no path is stated for."""
        return tuple(name for name, paths in self.mmdet3d.parts if not paths)

    @property
    def tapped(self) -> tuple[str, ...]:
        """The features that taps are stated for."""
        return tuple(name for name, path in self.mmdet3d.taps if path is not None)

    @property
    def program(self) -> tuple[str | None, str | None]:
        """The config, which is Python as a rule."""
        return self.mmdet3d.config, self.mmdet3d.config_sha256

    @property
    def unsteady(self) -> str:
        """The config's own augmentation, which nobody knows."""
        return f"the config of {self.name} has an augmentation of its own"

    @model_validator(mode="before")
    @classmethod
    def _without_bevformer(cls, content: Any) -> Any:
        if not isinstance(content, dict):
            return content
        if stated := [name for name, value in _OF_BEVFORMER.items() if content.get(name, value) != value]:
            raise ValueError(
                f"{', '.join(stated)} describe BEVFormer; those of detector mmdet3d stand in its config, and "
                "mmdet3d.options change them"
            )
        return {name: value for name, value in content.items() if name not in _OF_BEVFORMER}

    @model_validator(mode="after")
    def _with_config(self) -> ConfiguredProfile:
        if self.mmdet3d.config is None:
            raise ValueError("detector mmdet3d needs mmdet3d.config, the path of an mmdet3d config")
        return self
