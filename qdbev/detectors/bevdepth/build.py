"""A BEVDepth from flat numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from qdbev.detectors.auxiliary import ImageHead
from qdbev.detectors.bevdepth.detector import BEVDepth
from qdbev.detectors.centre import TASKS
from qdbev.detectors.images.resnet import resnet_config
from qdbev.detectors.lift import VoxelGrid
from qdbev.detectors.quiet import without_lists

STRIDE = 16  # of the neck's map
_STAGES = 4
_FIRST_WITH_BOTTLENECKS = 50  # ResNet depth


def build_bevdepth(
    *,
    image_px: tuple[int, int],
    backbone_depth: int,
    backbone_base_channels: int,
    backbone_with_checkpointing: bool,
    image_channels: int,
    depth_width: int,
    depth_groups: int,
    depths_m: tuple[float, float, float],
    channels: int,
    rows: int,
    columns: int,
    cell_m: float,
    low_m: tuple[float, float, float],
    height_m: float,
    neck_channels: int,
    head_channels: int,
    frames_back: int,
    code_weights: Sequence[float],
    depth_weight: float,
    tasks: Sequence[Sequence[int]] = TASKS,
    auxiliary: bool = False,
) -> BEVDepth:
    """Builds and initialises a detector.

    Args:
        image_px: Height and width of the network's input, multiples of 32.
        backbone_depth: ResNet depth (18, 34, 50, 101, 152).
        backbone_base_channels: Width of the stem and of the first stage (64 in the standard ResNet).
        backbone_with_checkpointing: Recompute activations in the backward pass to save memory.
        image_channels: Of each of the image neck's four maps, which come out together.
        depth_width: Of everything in the depth network.
        depth_groups: Of its deformable convolution.
        depths_m: First depth, the one behind the last, and the step between two.
        channels: Features that a pixel carries to the ground.
        rows: Cells along y, a multiple of 8.
        columns: Cells along x, a multiple of 8.
        cell_m: Side of a cell.
        low_m: Lower corner of the grid x, y, z in the vehicle's frame.
        height_m: Height of the one layer of cells.
        neck_channels: Of each of the four maps that the head takes together.
        head_channels: Of the head's maps in between.
        frames_back: How many key frames the past frame lies behind the current one; 0: there is none.
        code_weights: Weights in the loss of offset x, y, height, log length, log width, log height, sin and cos of the
            yaw, and velocity x, y.
        depth_weight: Of the loss of depths that the LiDAR saw; 0 trains without them.
        tasks: Class indices of each group that the head has maps for.
        auxiliary: With the dense head on image features that only training uses.

    Returns:
        The detector in training mode, on the CPU.
    """
    expansion = 1 if backbone_depth < _FIRST_WITH_BOTTLENECKS else 4
    first, stop, step = depths_m
    ground = channels * (1 + (frames_back > 0))
    options: dict[str, Any] = {"style": "pytorch", "norm_frozen": False, "stem": "standard"}
    image = resnet_config(
        depth=backbone_depth,
        base_channels=backbone_base_channels,
        stages=_STAGES,
        out_indices=range(_STAGES),
        dcn_stages=(False,) * _STAGES,
        frozen_stages=0,
        with_checkpointing=backbone_with_checkpointing,
        **options,
    )
    trunk = resnet_config(
        depth=18,
        base_channels=ground,
        stages=3,
        out_indices=range(3),
        dcn_stages=(False,) * 3,
        frozen_stages=-1,
        with_checkpointing=False,
        **options,
    )
    model = BEVDepth(
        {
            "img_backbone": image,
            "in_channels": [backbone_base_channels * 2**stage * expansion for stage in range(_STAGES)],
            "neck_channels": image_channels,
            "width": depth_width,
            "channels": channels,
            "groups": depth_groups,
            "stride": STRIDE,
            "depths_m": torch.arange(first, stop, step).tolist(),
        },
        {
            "trunk": trunk | {"in_channels": ground},
            "in_channels": ground,
            "neck_channels": neck_channels,
            "channels": head_channels,
        },
        grid=VoxelGrid(low_m, (cell_m, cell_m, height_m), rows, columns),
        image_px=image_px,
        depth_bounds_m=depths_m,
        frames_back=frames_back,
        code_weights=code_weights,
        depth_weight=depth_weight,
        tasks=tasks,
    )
    with without_lists():
        model.backbone.img_backbone.init_weights()
        model.head.trunk.init_weights()
    if auxiliary:
        model.auxiliary = ImageHead(channels=4 * image_channels, classes=sum(map(len, tasks)))
    # convolutions run about twice as fast on a CPU with the channels last
    parts: tuple[Any, ...] = (model.backbone.img_backbone, model.backbone.img_neck, model.head.trunk)
    for part in parts:
        part.to(memory_format=torch.channels_last)
    return model
