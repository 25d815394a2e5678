"""The data: shipped synthetic scenes or one's own nuScenes, how much of it, and the frames a sample holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from profiles.document import NAME, Document
from profiles.sections.named_rigs import rig_content
from profiles.sections.rig import RigProfile

Sweeps = Literal["none", "val", "all"]
Side = Annotated[int, Field(ge=16, le=4096)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]


class DataProfile(Document):
    """Where samples come from."""

    outside_digest: ClassVar[frozenset[str]] = frozenset({"cache", "workers"})

    later: ClassVar[frozenset[str]] = frozenset({"rig"})

    read_where: ClassVar[Mapping[str, tuple[str, tuple[str, ...]]]] = {"sweeps": ("source", ("synthetic",))}

    source: str = "synthetic"
    """synthetic (generated once into the cache) or the path of a nuScenes folder (the one that holds the version)."""
    version: str = Field(default="v1.0-trainval", pattern=NAME, max_length=64)
    """Name of the table folder under the source: v1.0-trainval, v1.0-mini, ..."""
    train_scenes: int | None = Field(default=None, ge=1, le=700)
    """Use the first so many training scenes; null uses all there are."""
    val_scenes: int | None = Field(default=None, ge=1, le=150)
    """Use the first so many validation scenes; null uses all there are."""
    image_size_px: tuple[Side, Side] = (176, 96)
    """Width and height of the synthetic camera images; 1600, 900 is nuScenes'."""
    key_frames: int = Field(default=8, ge=2, le=40)
    """Key frames (2 Hz) per synthetic scene."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seed of the synthetic scenes; apart from the seed of training."""
    more_seeds: tuple[Seed, ...] = Field(default=(), max_length=64)
    """For each of these seeds as many synthetic training scenes again, for float training alone; not used elsewhere."""
    sweeps: Sweeps = "none"
    """Splits that also get the 12 Hz camera sweeps between key frames (synthetic only)."""
    queue_length: int = Field(default=2, ge=1, le=8)
    """Frames per training sample, the current one included; the earlier ones only build the history."""
    drop_one_frame: bool = True
    """Leave out one earlier frame of the queue at random, as the official code does; false takes the nearest ones."""
    cache: str | None = None
    """Folder of generated scenes and read tables; null: $QDBEV_CACHE, else ~/.cache/qdbev."""
    workers: int = Field(default=0, ge=0, le=64)
    """Processes that load samples; 0 loads in the training process."""
    rig: RigProfile = RigProfile()
    """Cameras, classes and rules of scoring; a plain word names a built-in rig, extends takes the rest from one."""

    @field_validator("rig", mode="before")
    @classmethod
    def _named_rig(cls, content: Any) -> Any:
        """A name, or a mapping that extends a named rig."""
        return rig_content(content)

    @model_validator(mode="after")
    def _seeds_differ(self) -> DataProfile:
        seeds = (self.seed, *self.more_seeds)
        if len(set(seeds)) != len(seeds):
            raise ValueError(f"more_seeds {self.more_seeds} must differ from seed {self.seed} and from each other")
        return self
