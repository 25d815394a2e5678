"""A BEVDet or BEVDet4D from flat numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from qdbev.detectors.auxiliary import ImageHead
from qdbev.detectors.bevdet.detector import BEVDet
from qdbev.detectors.bevdet.image_neck import OneLevelFPN
from qdbev.detectors.centre import TASKS
from qdbev.detectors.images.resnet import resnet_config
from qdbev.detectors.lift import VoxelGrid
from qdbev.detectors.quiet import without_lists

STRIDE = 16  # of the finer of the two maps that the neck takes
_STAGES = 4
_FIRST_WITH_BOTTLENECKS = 50  # ResNet depth


def build_bevdet(
    *,
    image_px: tuple[int, int],
    backbone_depth: int,
    backbone_base_channels: int,
    backbone_with_checkpointing: bool,
    image_channels: int,
    depths_m: tuple[float, float, float],
    channels: int,
    rows: int,
    columns: int,
    cell_m: float,
    low_m: tuple[float, float, float],
    height_m: float,
    bev_channels: Sequence[int],
    neck_channels: int,
    head_channels: int,
    frames_back: int,
    code_weights: Sequence[float],
    tasks: Sequence[Sequence[int]] = TASKS,
    auxiliary: bool = False,
) -> BEVDet:
    """Builds and initialises a detector.

    Args:
        image_px: Height and width of the network's input, multiples of 32.
        backbone_depth: ResNet depth (18, 34, 50, 101, 152).
        backbone_base_channels: Width of the stem and of the first stage (64 in the standard ResNet).
        backbone_with_checkpointing: Recompute activations in the backward pass to save memory.
        image_channels: Of the image neck.
        depths_m: First depth, the one behind the last, and the step between two.
        channels: Features that a pixel carries to the ground.
        rows: Cells along y, a multiple of 8.
        columns: Cells along x, a multiple of 8.
        cell_m: Side of a cell.
        low_m: Lower corner of the grid x, y, z.
        height_m: Height of the one layer of cells.
        bev_channels: Of the three stages on the ground.
        neck_channels: Of the map that the head takes.
        head_channels: Of the head's maps in between.
        frames_back: How many key frames the past frame lies behind the current one; 0 is BEVDet, which has none.
        code_weights: Weights in the loss of offset x, y, height, log width, log length, log height, sin and cos of the
            heading, and velocity x, y.
        tasks: Class indices of each group that the head has maps for.
        auxiliary: With the dense head on image features that only training uses.

    Returns:
        The detector in training mode, on the CPU.
    """
    expansion = 1 if backbone_depth < _FIRST_WITH_BOTTLENECKS else 4
    inputs = [backbone_base_channels * 2**stage * expansion for stage in (2, 3)]
    first, stop, step = depths_m
    model = BEVDet(
        resnet_config(
            depth=backbone_depth,
            style="pytorch",
            base_channels=backbone_base_channels,
            stages=_STAGES,
            out_indices=(2, 3),
            dcn_stages=(False,) * _STAGES,
            frozen_stages=-1,
            norm_frozen=False,
            with_checkpointing=backbone_with_checkpointing,
            stem="standard",
        ),
        {"type": OneLevelFPN.__name__, "in_channels": inputs, "out_channels": image_channels},
        image_px=image_px,
        stride=STRIDE,
        depths_m=torch.arange(first, stop, step).tolist(),
        grid=VoxelGrid(low_m, (cell_m, cell_m, height_m), rows, columns),
        channels=channels,
        bev_channels=bev_channels,
        neck_channels=neck_channels,
        head_channels=head_channels,
        frames_back=frames_back,
        code_weights=code_weights,
        tasks=tasks,
    )
    with without_lists():
        model.img_backbone.init_weights()
    if auxiliary:
        model.auxiliary = ImageHead(channels=image_channels, classes=sum(map(len, tasks)))
    # convolutions run about twice as fast on a CPU with the channels last
    parts: tuple[Any, ...] = (
        model.img_backbone,
        model.img_neck,
        model.img_bev_encoder_backbone,
        model.img_bev_encoder_neck,
    )
    for part in parts:
        part.to(memory_format=torch.channels_last)
    return model
