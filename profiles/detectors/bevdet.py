"""BEVDet by its numbers; one past frame makes BEVDet4D of it.

The official variants are those of BEVDet (Huang et al., arXiv 2112.11790 and 2203.17054) as their public configurations
state them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from profiles.detectors.crop import CropProfile
from profiles.detectors.detector import DetectorProfile
from profiles.detectors.image import Framing
from profiles.document import Document

Width = Annotated[int, Field(ge=1, le=8192)]
Cells = Annotated[int, Field(ge=8, le=1024, multiple_of=8)]
Length = Annotated[float, Field(gt=0, le=1000)]
_STRIDE = 16  # of the image neck's map
_CONSTANT = "img_view_transformer.frustum"
_TEMPORAL = "pre_process_net.layers.0.0.conv1.weight"


class LiftBackboneProfile(Document):
    """The residual network on each camera image; all of it trains."""

    depth: Literal[18, 34, 50, 101, 152] = 50
    """ResNet depth; 18 and 34 have basic blocks, the others bottlenecks."""
    base_channels: int = Field(default=64, ge=8, le=1024)
    """Channels of the stem and the first stage; each later stage doubles them."""
    with_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, more time."""


class LiftProfile(Document):
    """From pixels to the ground."""

    depths_m: tuple[Length, Length, Length] = (1.0, 60.0, 1.0)
    """First depth, the one behind the last, and the step between two."""
    channels: Width = 64
    """Features that a pixel carries to the ground."""
    rows: Cells = 128
    """Cells along y, a multiple of 8."""
    columns: Cells = 128
    """Cells along x, a multiple of 8."""
    cell_m: Length = 0.8
    """Side of a cell."""
    low_m: tuple[float, float, float] = (-51.2, -51.2, -10.0)
    """Lower corner x, y, z of the grid in the LiDAR frame."""
    height_m: Length = 20.0
    """Height of the one layer of cells."""

    @property
    def range_m(self) -> tuple[float, ...]:
        """x, y, z minimum, then maximum."""
        sizes = (self.columns * self.cell_m, self.rows * self.cell_m, self.height_m)
        return (*self.low_m, *(low + size for low, size in zip(self.low_m, sizes, strict=True)))


class GroundProfile(Document):
    """The network on the ground."""

    channels: tuple[Width, Width, Width] = (128, 256, 512)
    """Of its three stages."""
    neck_channels: Width = 256
    """Of the map that the head takes."""


class CentreHeadProfile(Document):
    """Heat maps and boxes."""

    channels: Width = 64
    """Of the maps in between."""
    code_weights: tuple[float, ...] = Field(default=(1, 1, 1, 1, 1, 1, 1, 1, 0.2, 0.2), min_length=10, max_length=10)
    """Weights in the L1 loss of offset x, y, z, log w, log l, log h, sin and cos of the heading, vx, vy."""


class BEVDetProfile(DetectorProfile):
    """BEVDet, described by the sections below."""

    detector: Literal["bevdet"] = "bevdet"
    """bevdet: BEVDet, and with frames_back BEVDet4D."""
    image: CropProfile = CropProfile()
    """Image preparation; augmentation there is none."""
    backbone: LiftBackboneProfile = LiftBackboneProfile()
    """Image backbone."""
    image_channels: Width = 512
    """Channels of the image neck."""
    lift: LiftProfile = LiftProfile()
    """Depths and grid."""
    ground: GroundProfile = GroundProfile()
    """The network on the ground."""
    head: CentreHeadProfile = CentreHeadProfile()
    """Heat maps and boxes."""
    frames_back: int = Field(default=0, ge=0, le=8)
    """Key frames (0.5 s) between the current and the past frame; 0: BEVDet, which sees single frames."""

    def arguments(self) -> dict[str, Any]:
        """The numbers as the flat arguments of ``qdbev.detectors.bevdet.build_bevdet``."""
        backbone = {f"backbone_{name}": value for name, value in self.backbone}
        ground = {"bev_channels": self.ground.channels, "neck_channels": self.ground.neck_channels}
        head = {"head_channels": self.head.channels, "code_weights": self.head.code_weights}
        sizes = {"image_px": self.image.size_px[::-1], "image_channels": self.image_channels}
        return backbone | dict(self.lift) | ground | head | sizes | {"frames_back": self.frames_back}

    @property
    def backbone_paths(self) -> tuple[str, ...]:
        """Paths of the backbone's modules in the detector."""
        return ("img_backbone",)

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
        depths = -int((first - stop) // step)
        stated = shapes.get(_CONSTANT)
        return stated is not None and (tuple(stated), _TEMPORAL in shapes) == (
            (depths, height, width, 3),
            self.frames_back > 0,
        )
