"""PETR by its numbers (arXiv 2203.05625); the official variant is as its authors configured it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from profiles.detectors.backbone import BackboneProfile, Channels, backbone_arguments, backbone_problems
from profiles.detectors.detector import DetectorProfile
from profiles.detectors.image import Framing, Level, Spread
from profiles.detectors.queries import HeadProfile
from profiles.document import Document

Range = tuple[float, float, float, float, float, float]
Pixels = Annotated[int, Field(ge=16, le=8192)]
Factor = Annotated[float, Field(gt=0, le=4)]


class PETRImageProfile(Document):
    """How a camera image becomes the network's input: scale to cover it, cut the top off, normalise, pad."""

    height_px: Pixels = 512
    """Height of the cut; its bottom is the image's."""
    width_px: Pixels = 1408
    """Width of the cut."""
    pad_divisor: int = Field(default=32, ge=1, le=1024)
    """Both sides are padded with zeros to the next multiple of this many pixels."""
    mean: tuple[Level, Level, Level] = (103.53, 116.28, 123.675)
    """Subtracted per channel, in the order the network sees the channels, for pixels of 0 to 255."""
    std: tuple[Spread, Spread, Spread] = (1.0, 1.0, 1.0)
    """Divided by per channel, after the mean."""
    to_rgb: bool = False
    """Feed RGB (true) or BGR (false)."""


class AugmentationProfile(Document):
    """What training does to images and world besides; all cameras of a frame alike."""

    image_scale: tuple[Factor, Factor] = (0.8, 1.0)
    """Least and most factor on the image before it is cut; what is missing at the right is filled with black."""
    flip_probability: float = Field(default=0.5, ge=0, le=1)
    """Chance that images are mirrored."""
    rotation_rad: float = Field(default=0.3925, ge=0, le=3.15)
    """The world is turned by an angle of up to this, either way."""
    world_scale: tuple[Factor, Factor] = (0.95, 1.05)
    """Least and most factor on the world."""


class PETRNeckProfile(Document):
    """The feature pyramid; queries look at its finest level alone."""

    in_channels: tuple[Channels, ...] = (1024, 2048)
    """Channels of each backbone output, finest first."""


class PETRPositionProfile(Document):
    """The positions that image cells get."""

    depths: int = Field(default=64, ge=1, le=512)
    """Depths along the ray of each cell."""
    depth_start_m: float = Field(default=1.0, gt=0)
    """The first depth."""
    range_m: Range = (-61.2, -61.2, -10.0, 61.2, 61.2, 10.0)
    """x, y, z minimum, then x, y, z maximum that positions are fractions of; depths end at its x maximum."""


class PETRDecoderProfile(Document):
    """The decoder, which looks at all image cells."""

    layers: int = Field(default=6, ge=1, le=48)
    """Number of layers; they share one classification and one regression branch."""
    range_m: Range = (-51.2, -51.2, -5.0, 51.2, 51.2, 3.0)
    """x, y, z minimum, then x, y, z maximum of the perceived volume, metres in the LiDAR frame."""


class PETRProfile(DetectorProfile):
    """PETR, described by the sections below."""

    detector: Literal["petr"] = "petr"
    """petr; the other kinds have fields of their own."""
    image: PETRImageProfile = PETRImageProfile()
    """Image preparation."""
    augmentation: AugmentationProfile = AugmentationProfile()
    """What training does to images and world."""
    backbone: BackboneProfile = BackboneProfile(out_indices=(2, 3), frozen_stages=-1)
    """Image backbone."""
    neck: PETRNeckProfile = PETRNeckProfile()
    """Image neck."""
    position: PETRPositionProfile = PETRPositionProfile()
    """Positions of image cells."""
    decoder: PETRDecoderProfile = PETRDecoderProfile()
    """Object decoder."""
    head: HeadProfile = HeadProfile()
    """Queries and boxes."""
    channels: int = Field(default=256, ge=8, le=2048)
    """Channels of neck and decoder features, a multiple of 4."""
    heads: int = Field(default=8, ge=1, le=256)
    """Attention heads."""
    hidden: int = Field(default=2048, ge=8, le=16_384)
    """Channels inside every feed-forward block."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Rate in all attention and feed-forward blocks, in training."""

    def arguments(self) -> dict[str, Any]:
        """The numbers as the flat arguments of ``qdbev.detectors.petr.build_petr``."""
        images = backbone_arguments(self.backbone, neck=self.neck)
        position = {"position_range_m": self.position.range_m, "depths": self.position.depths}
        position |= {"depth_start_m": self.position.depth_start_m}
        sizes = {name: getattr(self, name) for name in ("channels", "heads", "hidden", "dropout")}
        decoder = {"decoder_layers": self.decoder.layers, "pc_range_m": self.decoder.range_m}
        return images | position | decoder | dict(self.head) | sizes

    @property
    def backbone_paths(self) -> tuple[str, ...]:
        """Paths of the backbone's modules in the detector."""
        return ("img_backbone",)

    @property
    def mask_follows_boxes(self) -> bool:
        """A camera sees a query where it sees the centre of its box."""
        return True

    @property
    def code_weights(self) -> tuple[float, ...]:
        """Those of the head."""
        return self.head.code_weights

    @property
    def unsteady(self) -> str:
        """Its augmentation, where there is any."""
        still = AugmentationProfile(
            image_scale=(1.0, 1.0), flip_probability=0.0, rotation_rad=0.0, world_scale=(1.0, 1.0)
        )
        changes = {name for name, value in self.augmentation if value != getattr(still, name)} - {"image_scale"}
        least, most = self.augmentation.image_scale
        if least == most and not changes:
            return ""
        return "model.augmentation draws another one for every visit of a sample"

    def framing(self, image_size_px: tuple[int, int]) -> Framing:
        """Scaled until the cut is covered; its bottom is the image's."""
        width, height = image_size_px
        scale = max(self.image.height_px / height, self.image.width_px / width)
        top = int(height * scale) - self.image.height_px
        divisor = self.image.pad_divisor
        rows, columns = (-side % divisor for side in (self.image.height_px, self.image.width_px))
        padded = (self.image.height_px + rows, self.image.width_px + columns)
        return Framing(padded, scale, top, padding_px=(rows, columns))

    def fits(self, shapes: Mapping[str, tuple[int, ...]]) -> bool:
        """Whether tensors of these shapes have as many anchors, channels and depths."""
        anchors, encoder = (
            shapes.get(f"pts_bbox_head.{name}.weight") for name in ("reference_points", "position_encoder.0")
        )
        if anchors is None or encoder is None:
            return False
        sizes = ((self.head.queries, 3), (4 * self.channels, 3 * self.position.depths, 1, 1))
        return sizes == (tuple(anchors), tuple(encoder))

    @model_validator(mode="after")
    def _fits_together(self) -> PETRProfile:
        for problem in (*backbone_problems(self.backbone, neck=self.neck), *self._size_problems()):
            raise ValueError(problem)
        return self

    def _size_problems(self) -> Iterator[str]:
        if self.channels % self.heads:
            yield f"channels {self.channels} is not a multiple of heads {self.heads}"
        if self.channels % 4:
            yield f"channels {self.channels} is not a multiple of 4; positions are sines and cosines of half of them"
        for name, (low_x, low_y, low_z, *high) in (
            ("position", self.position.range_m),
            ("decoder", self.decoder.range_m),
        ):
            if any(least >= most for least, most in zip((low_x, low_y, low_z), high, strict=True)):
                yield f"{name}.range_m {[low_x, low_y, low_z, *high]} must be three minima, then three larger maxima"
        if self.position.depth_start_m >= self.position.range_m[3]:
            start, end = self.position.depth_start_m, self.position.range_m[3]
            yield f"position.depth_start_m {start} is behind the end of position.range_m, {end}"
        for name in ("image_scale", "world_scale"):
            least, most = getattr(self.augmentation, name)
            if least > most:
                yield f"augmentation.{name} is [{least}, {most}]; the least factor comes first"
