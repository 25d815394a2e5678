"""BEVFormer by its numbers, those that make nano, tiny, small and base different from each other.

The official variants are those of BEVFormer (Li et al., ECCV 2022) as their public configurations state them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from profiles.detectors.backbone import (
    BackboneProfile,
    NeckProfile,
    backbone_arguments,
    backbone_problems,
    neck_problems,
)
from profiles.detectors.detector import DetectorProfile
from profiles.detectors.image import Framing, ImageProfile
from profiles.detectors.queries import HeadProfile
from profiles.document import Document

_MOST_NUMBERS = 2**28  # in the BEV grid
_LAYERS = "pts_bbox_head.transformer.encoder.layers."


class BevProfile(Document):
    """The bird's-eye-view grid."""

    rows: int = Field(default=50, ge=4, le=1000)
    """Cells along y."""
    columns: int = Field(default=50, ge=4, le=1000)
    """Cells along x."""
    heights: int = Field(default=4, ge=1, le=64)
    """Reference heights in the pillar over a cell (the paper's D)."""
    range_m: tuple[float, float, float, float, float, float] = (-51.2, -51.2, -5.0, 51.2, 51.2, 3.0)
    """x, y, z minimum, then x, y, z maximum of the perceived volume, metres in the LiDAR frame."""
    rotation_centre_px: tuple[float, float] | None = (100.0, 100.0)
    """Fixed point of the history's rotation, in cells (x, y): 100, 100 for official weights; null is the middle."""
    rotation_nearest: bool = True
    """Rotate the history by nearest neighbour (official weights), or bilinearly."""


class EncoderProfile(Document):
    """The BEV encoder: temporal self-attention, spatial cross-attention, feed-forward."""

    layers: int = Field(default=3, ge=1, le=48)
    """Number of layers."""
    temporal_points: int = Field(default=4, ge=1, le=64)
    """Sampling points per head in temporal self-attention."""
    spatial_points: int = Field(default=8, ge=1, le=64)
    """Sampling points per head and level in spatial cross-attention, a multiple of bev.heights."""


class DecoderProfile(Document):
    """The object decoder over BEV features."""

    layers: int = Field(default=6, ge=1, le=48)
    """Number of layers; each has a classification and a regression branch."""
    points: int = Field(default=4, ge=1, le=64)
    """Sampling points per head in cross-attention over the BEV grid."""


class BEVFormerProfile(DetectorProfile):
    """BEVFormer, described by the sections below."""

    detector: Literal["bevformer"] = "bevformer"
    """bevformer, or mmdet3d, which has fields of its own: any detector by its config."""
    image: ImageProfile = ImageProfile()
    """Image preparation."""
    backbone: BackboneProfile = BackboneProfile()
    """Image backbone."""
    neck: NeckProfile = NeckProfile()
    """Image neck."""
    bev: BevProfile = BevProfile()
    """BEV grid."""
    encoder: EncoderProfile = EncoderProfile()
    """BEV encoder."""
    decoder: DecoderProfile = DecoderProfile()
    """Object decoder."""
    head: HeadProfile = HeadProfile()
    """Queries and boxes."""
    channels: int = Field(default=256, ge=8, le=2048)
    """Channels of neck, encoder and decoder features."""
    heads: int = Field(default=8, ge=1, le=256)
    """Attention heads."""
    hidden: int = Field(default=512, ge=8, le=16_384)
    """Channels inside every feed-forward block."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Rate in all attention and feed-forward blocks, in training."""

    def arguments(self) -> dict[str, Any]:
        """The numbers as the flat arguments of ``qdbev.detectors.bevformer.build_bevformer``."""
        images = backbone_arguments(self.backbone, neck=self.neck)
        bev = {"pc_range_m": self.bev.range_m, "heights": self.bev.heights}
        bev |= {"bev_rows": self.bev.rows, "bev_columns": self.bev.columns}
        rotation = {name: value for name, value in self.bev if name.startswith("rotation_")}
        encoder = {"encoder_layers" if name == "layers" else name: value for name, value in self.encoder}
        decoder = {f"decoder_{name}": value for name, value in self.decoder}
        sizes = {name: getattr(self, name) for name in ("channels", "heads", "hidden", "dropout")}
        return images | bev | rotation | encoder | decoder | dict(self.head) | sizes

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
        """Whether tensors of these shapes have as many cells, channels, queries and encoder layers."""
        table, queries = (shapes.get(f"pts_bbox_head.{name}.weight") for name in ("bev_embedding", "query_embedding"))
        if table is None or queries is None:
            return False
        layers = {name.partition(_LAYERS)[2].partition(".")[0] for name in shapes if name.startswith(_LAYERS)}
        sizes = ((self.bev.rows * self.bev.columns, self.channels), self.head.queries, self.encoder.layers)
        return sizes == (tuple(table), queries[0], len(layers))

    @model_validator(mode="before")
    @classmethod
    def _without_empty_config(cls, content: Any) -> Any:
        """Profiles that were printed when all kinds had one section together state a ``mmdet3d`` that says nothing."""
        if isinstance(content, dict) and _says_nothing(content.get("mmdet3d", {})):
            return {name: value for name, value in content.items() if name != "mmdet3d"}
        return content

    @model_validator(mode="after")
    def _fits_together(self) -> BEVFormerProfile:
        for problem in (
            *backbone_problems(self.backbone, neck=self.neck),
            *neck_problems(self.neck),
            *self._size_problems(),
        ):
            raise ValueError(problem)
        return self

    def _size_problems(self) -> Iterator[str]:
        bev, points = self.bev, self.encoder.spatial_points
        if self.channels % self.heads:
            yield f"channels {self.channels} is not a multiple of heads {self.heads}"
        if self.channels % 2:
            yield f"channels {self.channels} is odd; half of them say the row of a cell, half the column"
        if points % bev.heights:
            yield f"encoder.spatial_points {points} is not a multiple of bev.heights {bev.heights}"
        if any(low >= high for low, high in zip(bev.range_m[:3], bev.range_m[3:], strict=True)):
            yield f"bev.range_m {list(bev.range_m)} must be three minima, then three larger maxima"
        if bev.rows * bev.columns * self.channels > _MOST_NUMBERS:
            yield f"{bev.rows} x {bev.columns} cells of {self.channels} channels are more than {_MOST_NUMBERS} numbers"


def _says_nothing(section: Any) -> bool:
    if isinstance(section, dict):
        return all(_says_nothing(value) for value in section.values())
    return section in (None, [], ())
