"""DETR3D by its numbers (arXiv 2110.06922); the official variants are as its authors configured them."""

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

_ATTENTION = "pts_bbox_head.transformer.decoder.layers.0.attentions.1.attention_weights.weight"
_STAGE_3 = "img_backbone.layer3."


class DETR3DDecoderProfile(Document):
    """The decoder, which looks at the images."""

    layers: int = Field(default=6, ge=1, le=48)
    """Number of layers; each has a classification and a regression branch."""
    range_m: tuple[float, float, float, float, float, float] = (-51.2, -51.2, -5.0, 51.2, 51.2, 3.0)
    """x, y, z minimum, then x, y, z maximum of the perceived volume, metres in the LiDAR frame."""


class DETR3DProfile(DetectorProfile):
    """DETR3D, described by the sections below."""

    detector: Literal["detr3d"] = "detr3d"
    """detr3d; the other kinds have fields of their own."""
    image: ImageProfile = ImageProfile(mean=(103.53, 116.28, 123.675), std=(1.0, 1.0, 1.0), to_rgb=False)
    """Image preparation."""
    backbone: BackboneProfile = BackboneProfile(out_indices=(1, 2, 3))
    """Image backbone."""
    neck: NeckProfile = NeckProfile(in_channels=(512, 1024, 2048), outputs=4, extra_convs=True)
    """Image neck; the queries look at all of its levels."""
    decoder: DETR3DDecoderProfile = DETR3DDecoderProfile()
    """Object decoder."""
    head: HeadProfile = HeadProfile()
    """Queries and boxes."""
    channels: int = Field(default=256, ge=8, le=2048)
    """Channels of neck and decoder features."""
    heads: int = Field(default=8, ge=1, le=256)
    """Heads of the attention among queries."""
    hidden: int = Field(default=512, ge=8, le=16_384)
    """Channels inside every feed-forward block."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Rate in all attention and feed-forward blocks, in training."""

    def arguments(self) -> dict[str, Any]:
        """The numbers as the flat arguments of ``qdbev.detectors.detr3d.build_detr3d``."""
        images = backbone_arguments(self.backbone, neck=self.neck)
        sizes = {name: getattr(self, name) for name in ("channels", "heads", "hidden", "dropout")}
        decoder = {"decoder_layers": self.decoder.layers, "pc_range_m": self.decoder.range_m}
        return images | decoder | dict(self.head) | sizes

    @property
    def backbone_paths(self) -> tuple[str, ...]:
        """Paths of the backbone's modules in the detector."""
        return ("img_backbone",)

    @property
    def empty_parts(self) -> tuple[str, ...]:
        """DETR3D has no encoder."""
        return ("encoder",)

    @property
    def mask_follows_boxes(self) -> bool:
        """A camera sees a query where it sees the centre of its box."""
        return True

    @property
    def code_weights(self) -> tuple[float, ...]:
        """Those of the head."""
        return self.head.code_weights

    def framing(self, image_size_px: tuple[int, int]) -> Framing:
        """That of the section ``image``."""
        return self.image.framing(image_size_px)

    def fits(self, shapes: Mapping[str, tuple[int, ...]]) -> bool:
        """Whether tensors of these shapes have as many queries, channels, levels and blocks in the third stage."""
        queries, looks = (shapes.get(name) for name in ("pts_bbox_head.query_embedding.weight", _ATTENTION))
        if queries is None or looks is None:
            return False
        blocks = {name.partition(_STAGE_3)[2].partition(".")[0] for name in shapes if name.startswith(_STAGE_3)}
        deformable = f"{_STAGE_3}0.conv2.conv_offset.weight" in shapes
        sizes = ((self.head.queries, 2 * self.channels), self.channels, len(blocks), deformable)
        depth = {50: 6, 101: 23, 152: 36}.get(self.backbone.depth)
        return sizes == (tuple(queries), looks[1], depth, self.backbone.dcn_stages[2:3] == (True,))

    @model_validator(mode="after")
    def _fits_together(self) -> DETR3DProfile:
        for problem in (
            *backbone_problems(self.backbone, neck=self.neck),
            *neck_problems(self.neck),
            *self._size_problems(),
        ):
            raise ValueError(problem)
        return self

    def _size_problems(self) -> Iterator[str]:
        if self.channels % self.heads:
            yield f"channels {self.channels} is not a multiple of heads {self.heads}"
        low, high = self.decoder.range_m[:3], self.decoder.range_m[3:]
        if any(least >= most for least, most in zip(low, high, strict=True)):
            yield f"decoder.range_m {list(self.decoder.range_m)} must be three minima, then three larger maxima"
