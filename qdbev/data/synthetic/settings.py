"""What decides the contents of a synthetic tree, checked once."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import Any

from qdbev.data.synthetic.vehicle import NUSCENES, Vehicle

GENERATOR_VERSION = 4
KEY_FRAME_BYTES, KEY_FRAME_BYTES_PER_PIXEL = 340_000, 2.1
"""What a key frame takes on the disk, measured: a LiDAR sweep, rows and CAN messages; six images by their pixels."""
SWEEPS = ("none", "val", "all")


@dataclass(frozen=True)
class Settings:
    """Settings that every scene of a tree shares.

    Attributes:
        version: Name of the folder of tables, as v1.0-trainval.
        seed: Seed of all scenes.
        image_width_px: Image width, at most 1600.
        image_height_px: Image height, at most 900.
        key_frames: Key frames per scene, 2 Hz.
        sweeps: Which scenes have 12 Hz camera images between key frames: none, val or all.
        generator: Version of this generator.
        vehicle: Its sensors, and how its tables call things.
    """

    version: str
    seed: int
    image_width_px: int
    image_height_px: int
    key_frames: int
    sweeps: str
    generator: int = GENERATOR_VERSION
    vehicle: Vehicle = NUSCENES

    def __post_init__(self) -> None:
        """Refuse what cannot be rendered."""
        if not (16 <= self.image_width_px <= 1600 and 16 <= self.image_height_px <= 900):
            size = f"{self.image_width_px}x{self.image_height_px}"
            raise ValueError(f"image size is {size}, expected 16..1600 by 16..900 pixels")
        if self.key_frames < 2:
            raise ValueError(f"key_frames is {self.key_frames}, expected at least 2: velocity needs two")
        if self.sweeps not in SWEEPS:
            raise ValueError(f"sweeps is {self.sweeps!r}, expected one of {', '.join(SWEEPS)}")

    @property
    def image_size_px(self) -> tuple[int, int]:
        """Width and height."""
        return self.image_width_px, self.image_height_px

    @property
    def duration_s(self) -> float:
        """From the first key frame to the last."""
        return (self.key_frames - 1) / 2

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; the vehicle is among them where it is not nuScenes'."""
        own = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "vehicle"}
        plain: dict[str, Any] = json.loads(json.dumps(own | self.vehicle.as_dict()))
        return plain
