"""BEVFormer by its numbers, those that make nano, tiny, small and base different from each other.

The official variants are those of BEVFormer (Li et al., ECCV 2022) as their public configurations state them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from profiles.detectors.detector import DetectorProfile
from profiles.detectors.image import ImageProfile
from profiles.document import Document

Stage = Annotated[int, Field(ge=0, le=3)]
Channels = Annotated[int, Field(ge=1, le=65_536)]
_FIRST_WITH_BOTTLENECKS = 50  # ResNet depth
_MOST_NUMBERS = 2**28  # in the BEV grid
_LAYERS = "pts_bbox_head.transformer.encoder.layers."


class BackboneProfile(Document):
    """The residual network on each camera image."""

    depth: Literal[18, 34, 50, 101, 152] = 50
    """ResNet depth; 18 and 34 have basic blocks, the others bottlenecks."""
    style: Literal["pytorch", "caffe"] = "pytorch"
    """Where a bottleneck strides: in its 3x3 (pytorch) or in its first 1x1 convolution (caffe)."""
    base_channels: int = Field(default=64, ge=8, le=1024)
    """Channels of the stem and the first stage; each later stage doubles them."""
    stages: int = Field(default=4, ge=1, le=4)
    """Residual stages that exist (strides 4, 8, 16, 32)."""
    out_indices: tuple[Stage, ...] = Field(default=(3,), min_length=1)
    """Stages handed to the neck, counted from 0."""
    dcn_stages: tuple[bool, ...] = (False, False, False, False)
    """For each stage, whether its 3x3 convolutions are modulated deformable (DCNv2)."""
    frozen_stages: int = Field(default=1, ge=-1, le=4)
    """Stem and this many stages do not train; -1 trains everything, 0 freezes the stem."""
    norm_frozen: bool = True
    """Keep the statistics and affine values of batch norms in training."""
    with_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, more time."""

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of the outputs, finest first."""
        expansion = 1 if self.depth < _FIRST_WITH_BOTTLENECKS else 4
        return tuple(self.base_channels * 2**stage * expansion for stage in self.out_indices)


class NeckProfile(Document):
    """The feature pyramid over the backbone's outputs."""

    in_channels: tuple[Channels, ...] = (2048,)
    """Channels of each backbone output, finest first."""
    outputs: int = Field(default=1, ge=1, le=4)
    """Levels handed to the encoder."""
    extra_convs: bool = False
    """Levels beyond the inputs come from a stride-2 convolution on the last output."""


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


class HeadProfile(Document):
    """Queries and boxes."""

    queries: int = Field(default=900, ge=1, le=10_000)
    """Object queries."""
    query_init: Literal["random", "grid"] = "random"
    """First object positions: random (official), or spread over the range; matters for training from scratch."""
    code_weights: tuple[float, ...] = Field(default=(1, 1, 1, 1, 1, 1, 1, 1, 0.2, 0.2), min_length=10, max_length=10)
    """Weights in the L1 loss of cx, cy, log w, log l, cz, log h, sin yaw, cos yaw, vx, vy."""
    motion_weight: float = Field(default=0.0, ge=0)
    """Weight of a squared error of the matched queries' heading and velocity; the official losses have none."""


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
        backbone = {f"backbone_{name}": value for name, value in self.backbone}
        neck = {f"neck_{name}": value for name, value in self.neck}
        bev = {"pc_range_m": self.bev.range_m, "heights": self.bev.heights}
        bev |= {"bev_rows": self.bev.rows, "bev_columns": self.bev.columns}
        rotation = {name: value for name, value in self.bev if name.startswith("rotation_")}
        encoder = {"encoder_layers" if name == "layers" else name: value for name, value in self.encoder}
        decoder = {f"decoder_{name}": value for name, value in self.decoder}
        sizes = {name: getattr(self, name) for name in ("channels", "heads", "hidden", "dropout")}
        return backbone | neck | bev | rotation | encoder | decoder | dict(self.head) | sizes

    @property
    def backbone_paths(self) -> tuple[str, ...]:
        """Paths of the backbone's modules in the detector."""
        return ("img_backbone",)

    @property
    def code_weights(self) -> tuple[float, ...]:
        """Those of the head."""
        return self.head.code_weights

    @property
    def preparation(self) -> ImageProfile:
        """That of the section ``image``."""
        return self.image

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
        for problem in (*self._backbone_problems(), *self._neck_problems(), *self._size_problems()):
            raise ValueError(problem)
        return self

    def _backbone_problems(self) -> Iterator[str]:
        backbone = self.backbone
        if list(backbone.out_indices) != sorted(set(backbone.out_indices)):
            yield f"backbone.out_indices {backbone.out_indices} must rise, each once"
        if max(backbone.out_indices) >= backbone.stages:
            yield f"backbone.out_indices {backbone.out_indices} need more than {backbone.stages} stages"
        if len(backbone.dcn_stages) != backbone.stages:
            yield f"backbone.dcn_stages has {len(backbone.dcn_stages)} entries for {backbone.stages} stages"
        if backbone.depth < _FIRST_WITH_BOTTLENECKS and any(backbone.dcn_stages):
            yield f"backbone.dcn_stages must be false where backbone.depth is {backbone.depth}: of bottlenecks alone"
        if backbone.frozen_stages > backbone.stages:
            yield f"backbone.frozen_stages {backbone.frozen_stages} of {backbone.stages} backbone.stages"

    def _neck_problems(self) -> Iterator[str]:
        backbone, inputs = self.backbone, self.neck.in_channels
        if len(backbone.out_indices) != len(inputs):
            yield f"neck.in_channels has {len(inputs)} entries, but backbone.out_indices {backbone.out_indices}"
        elif inputs != backbone.channels:
            yield (
                f"neck.in_channels is {list(inputs)}, but the backbone gives {list(backbone.channels)} "
                f"(backbone.depth {backbone.depth}, base_channels {backbone.base_channels})"
            )
        if self.neck.outputs < len(inputs):
            yield f"neck.outputs {self.neck.outputs} is less than the {len(inputs)} entries of neck.in_channels"

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
