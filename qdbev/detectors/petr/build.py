"""A PETR from flat numbers."""

from __future__ import annotations

from collections.abc import Sequence

from qdbev.detectors.images.resnet import resnet_config, start_images
from qdbev.detectors.petr.detector import PETR
from qdbev.detectors.petr.neck import CPFPN
from qdbev.detectors.queries.decoded import CENTRE_RANGE_M


def build_petr(
    *,
    backbone_depth: int,
    backbone_style: str,
    backbone_base_channels: int,
    backbone_stages: int,
    backbone_out_indices: Sequence[int],
    backbone_dcn_stages: Sequence[bool],
    backbone_frozen_stages: int,
    backbone_norm_frozen: bool,
    backbone_with_checkpointing: bool,
    neck_in_channels: Sequence[int],
    channels: int,
    heads: int,
    hidden: int,
    dropout: float,
    pc_range_m: Sequence[float],
    position_range_m: Sequence[float],
    depths: int,
    depth_start_m: float,
    decoder_layers: int,
    queries: int,
    query_init: str,
    code_weights: Sequence[float],
    motion_weight: float = 0.0,
    auxiliary: bool = False,
    classes: int = 10,
    max_boxes: int = 300,
    centre_range_m: Sequence[float] = CENTRE_RANGE_M,
) -> PETR:
    """Builds and initialises a detector; any number of cameras fits, but their order is part of the weights.

    Args:
        backbone_depth: ResNet depth (18, 34, 50, 101, 152).
        backbone_style: "pytorch" has the stride of a bottleneck in its 3x3, "caffe" in its first 1x1.
        backbone_base_channels: Width of the stem and of the first stage (64 in the standard ResNet).
        backbone_stages: Number of stages, 1 to 4.
        backbone_out_indices: Stages whose maps go to the neck, 0 is the first (stride 4).
        backbone_dcn_stages: Per stage, whether its 3x3 convolutions are deformable (DCNv2).
        backbone_frozen_stages: The stem (0) and the stages up to this one do not train; -1 trains all.
        backbone_norm_frozen: Batch norm keeps its statistics and affine numbers in training.
        backbone_with_checkpointing: Recompute activations in the backward pass to save memory.
        neck_in_channels: Channels of the backbone's maps; queries look at the finest level alone.
        channels: Embedding size, also of the neck's output.
        heads: Attention heads.
        hidden: Width inside the feed-forward blocks.
        dropout: Rate in all attention and feed-forward blocks.
        pc_range_m: x, y, z minimum then maximum that boxes are fractions of [m].
        position_range_m: The same for positions of image cells; depths end at its x maximum.
        depths: Depths along the ray of each image cell.
        depth_start_m: The first of them.
        decoder_layers: Layers; they share one class and one box branch.
        queries: Object queries.
        query_init: "random" (official) or "grid": first anchors spread over the range.
        code_weights: Weight of each box code entry in the L1 loss.
        motion_weight: Weight of the squared error of matched queries' heading and velocity.
        auxiliary: With the dense head on image features that only training uses.
        classes: Number of classes.
        max_boxes: Boxes per sample at most.
        centre_range_m: Boxes with their centre outside are dropped.

    Returns:
        The detector in training mode, on the CPU.

    Raises:
        ValueError: arguments that do not fit each other.
    """
    backbone = resnet_config(
        depth=backbone_depth,
        style=backbone_style,
        base_channels=backbone_base_channels,
        stages=backbone_stages,
        out_indices=backbone_out_indices,
        dcn_stages=backbone_dcn_stages,
        frozen_stages=backbone_frozen_stages,
        norm_frozen=backbone_norm_frozen,
        with_checkpointing=backbone_with_checkpointing,
    )
    head = {
        "type": "PETRHead",
        "classes": classes,
        "channels": channels,
        "heads": heads,
        "hidden": hidden,
        "pc_range": tuple(pc_range_m),
        "position_range": tuple(position_range_m),
        "depths": depths,
        "depth_start_m": depth_start_m,
        "decoder_layers": decoder_layers,
        "queries": queries,
        "query_init": query_init,
        "dropout": dropout,
        "code_weights": tuple(code_weights),
    }
    model = PETR(
        img_backbone=backbone,
        img_neck={"type": CPFPN, "in_channels": list(neck_in_channels), "out_channels": channels},
        pts_bbox_head=head,
        motion_weight=motion_weight,
        auxiliary=auxiliary,
        max_boxes=max_boxes,
        centre_range_m=centre_range_m,
    )
    start_images(model)
    return model
