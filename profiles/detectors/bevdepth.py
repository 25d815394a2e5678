"""BEVDepth by its numbers, as its authors' public configuration with two key frames states them (arXiv 2206.10092)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from profiles.detectors.bevdet import LiftBackboneProfile, LiftProfile, Width
from profiles.detectors.crop import CropProfile
from profiles.detectors.detector import DetectorProfile
from profiles.detectors.image import Framing
from profiles.document import Document

_STRIDE = 16  # of the image neck's map
_LEAST_PX = 64  # mmcv's deformable convolution wants a map of three pixels at least
_CONSTANT, _MAP = "backbone.frustum", "head.trunk.conv1.weight"


class DepthProfile(Document):
    """The depth network."""

    width: Width = 512
    """Channels of everything inside."""
    groups: Width = 4
    """Groups of its deformable convolution's weights, a divisor of the width."""
    weight: float = Field(default=3.0, ge=0)
    """Of the loss of depths that the LiDAR saw; 0 trains without them, and without LiDAR files."""


class DepthHeadProfile(Document):
    """The network on the ground, heat maps and boxes."""

    neck_channels: Width = 64
    """Of each of the four maps that are taken together."""
    channels: Width = 64
    """Of the maps in between."""
    code_weights: tuple[float, ...] = Field(default=(1, 1, 1, 1, 1, 1, 1, 1, 1, 1), min_length=10, max_length=10)
    """Weights in the L1 loss of offset x, y, z, log l, log w, log h, sin and cos of the yaw, vx, vy."""


class BEVDepthProfile(DetectorProfile):
    """BEVDepth, described by the sections below."""

    detector: Literal["bevdepth"] = "bevdepth"
    """bevdepth: BEVDepth with one past frame, or none."""
    image: CropProfile = CropProfile(scale=0.44, to_rgb=False)
    """Image preparation: blue first, with the numbers of red first, as its authors trained it. No augmentation."""
    backbone: LiftBackboneProfile = LiftBackboneProfile()
    """Image backbone; its stem does not train."""
    image_channels: Width = 128
    """Channels of each of the image neck's four maps."""
    depth: DepthProfile = DepthProfile()
    """The depth network."""
    lift: LiftProfile = LiftProfile(depths_m=(2.0, 58.0, 0.5), channels=80, low_m=(-51.2, -51.2, -5.0), height_m=8.0)
    """Depths, and the grid in the frame of the vehicle."""
    head: DepthHeadProfile = DepthHeadProfile()
    """Ground, heat maps and boxes."""
    frames_back: int = Field(default=1, ge=0, le=8)
    """Key frames (0.5 s) between the current and the past frame; 0: single frames."""

    def arguments(self) -> dict[str, Any]:
        """The numbers as the flat arguments of ``qdbev.detectors.bevdepth.build_bevdepth``."""
        backbone = {f"backbone_{name}": value for name, value in self.backbone}
        depth = {f"depth_{name}": value for name, value in self.depth}
        head = {"head_channels": self.head.channels, "neck_channels": self.head.neck_channels}
        sizes = {"image_px": self.image.size_px[::-1], "image_channels": self.image_channels}
        last = {"frames_back": self.frames_back, "code_weights": self.head.code_weights}
        return backbone | depth | dict(self.lift) | head | sizes | last

    @model_validator(mode="after")
    def _large_enough(self) -> BEVDepthProfile:
        if min(self.image.size_px) < _LEAST_PX:
            raise ValueError(f"image.size_px {list(self.image.size_px)} must be at least {_LEAST_PX} on both sides")
        if self.depth.width % self.depth.groups:
            raise ValueError(f"depth.width {self.depth.width} is not a multiple of depth.groups {self.depth.groups}")
        return self

    @property
    def backbone_paths(self) -> tuple[str, ...]:
        """Paths of the backbone's modules in the detector."""
        return ("backbone.img_backbone",)

    @property
    def code_weights(self) -> tuple[float, ...]:
        """Those of the head."""
        return self.head.code_weights

    def framing(self, image_size_px: tuple[int, int]) -> Framing:
        """That of the section ``image``."""
        return self.image.framing(image_size_px)

    def fits(self, shapes: Mapping[str, tuple[int, ...]]) -> bool:
        """Whether tensors of these shapes have as many depths and pixels, and a past frame or none."""
        first, stop, step = self.lift.depths_m
        width, height = (side // _STRIDE for side in self.image.size_px)
        stated, trunk = shapes.get(_CONSTANT), shapes.get(_MAP)
        if stated is None or trunk is None:
            return False
        ground = self.lift.channels * (1 + (self.frames_back > 0))
        return (tuple(stated), trunk[1]) == ((-int((first - stop) // step), height, width, 4), ground)
