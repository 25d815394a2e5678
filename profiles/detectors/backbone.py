"""The residual network and the feature pyramid on camera images, by their numbers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal, Protocol

from pydantic import Field

from profiles.document import Document

Stage = Annotated[int, Field(ge=0, le=3)]
Channels = Annotated[int, Field(ge=1, le=65_536)]
_FIRST_WITH_BOTTLENECKS = 50  # ResNet depth


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


class Neck(Protocol):
    """Any neck behind a residual network."""

    @property
    def in_channels(self) -> tuple[int, ...]:
        """Channels of each backbone output, finest first."""


def backbone_arguments(backbone: BackboneProfile, *, neck: Document) -> dict[str, Any]:
    """The numbers of both as flat arguments ``backbone_...`` and ``neck_...``."""
    return {f"backbone_{name}": value for name, value in backbone} | {f"neck_{name}": value for name, value in neck}


def backbone_problems(backbone: BackboneProfile, *, neck: Neck) -> Iterator[str]:
    """What contradicts itself in a backbone, or between it and its neck, a sentence each."""
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
    yield from _neck_problems(neck.in_channels, backbone=backbone)


def neck_problems(neck: NeckProfile) -> Iterator[str]:
    """What contradicts itself in a feature pyramid."""
    if neck.outputs < len(neck.in_channels):
        yield f"neck.outputs {neck.outputs} is less than the {len(neck.in_channels)} entries of neck.in_channels"


def _neck_problems(inputs: tuple[int, ...], *, backbone: BackboneProfile) -> Iterator[str]:
    if len(backbone.out_indices) != len(inputs):
        yield f"neck.in_channels has {len(inputs)} entries, but backbone.out_indices {backbone.out_indices}"
    elif inputs != backbone.channels:
        yield (
            f"neck.in_channels is {list(inputs)}, but the backbone gives {list(backbone.channels)} "
            f"(backbone.depth {backbone.depth}, base_channels {backbone.base_channels})"
        )
