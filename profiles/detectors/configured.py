"""A detector of somebody else's: an mmdet3d config, and which of its modules are backbone, neck, encoder, decoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, JsonValue, model_validator

from profiles.detectors.config_files import config_digest
from profiles.document import Document


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


class ConfiguredProfile(Document):
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
        path = Path(content["config"]).expanduser()
        found = config_digest(path.resolve())
        stated = content.get("config_sha256")
        if stated not in (None, found):
            raise ValueError(f"config {path} is not the one meant: its sha256 is {found[:12]}..., not {stated[:12]}...")
        return {**content, "config_sha256": found}
