"""A DETR3D from flat numbers: every published variant is one set of arguments."""

from __future__ import annotations

from collections.abc import Sequence

from qdbev.detectors.detr3d.detector import DETR3D
from qdbev.detectors.images.resnet import resnet_config, start_images
from qdbev.detectors.queries.decoded import CENTRE_RANGE_M


def build_detr3d(
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
    neck_outputs: int,
    neck_extra_convs: bool,
    channels: int,
    heads: int,
    hidden: int,
    dropout: float,
    pc_range_m: Sequence[float],
    decoder_layers: int,
    queries: int,
    query_init: str,
    code_weights: Sequence[float],
    motion_weight: float = 0.0,
    auxiliary: bool = False,
    cameras: int = 6,
    classes: int = 10,
    max_boxes: int = 300,
    centre_range_m: Sequence[float] = CENTRE_RANGE_M,
) -> DETR3D:
    """Builds and initialises a detector.

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
        neck_in_channels: Channels of the backbone's maps that the neck reads.
        neck_outputs: Levels that the FPN gives and the queries look at.
        neck_extra_convs: Levels beyond the inputs come from a stride-2 convolution on the last output.
        channels: Embedding size, also of the neck's output.
        heads: Heads of self-attention; the look at the images has none.
        hidden: Width inside the feed-forward blocks.
        dropout: Rate in all attention and feed-forward blocks.
        pc_range_m: x, y, z minimum then maximum that reference points are fractions of [m].
        decoder_layers: Layers, with a class and a box branch each.
        queries: Object queries.
        query_init: "random" (official) or "grid": first object positions spread over the range.
        code_weights: Weight of each box code entry in the L1 loss.
        motion_weight: Weight of the squared error of matched queries' heading and velocity.
        auxiliary: With the dense head on image features that only training uses.
        cameras: Number of cameras; their order counts, each has weights of its own.
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
    neck = {
        "type": "mmdet.FPN",
        "in_channels": list(neck_in_channels),
        "out_channels": channels,
        "num_outs": neck_outputs,
        "add_extra_convs": "on_output" if neck_extra_convs else False,
    }
    head = {
        "type": "DETR3DHead",
        "classes": classes,
        "channels": channels,
        "heads": heads,
        "hidden": hidden,
        "cameras": cameras,
        "levels": neck_outputs,
        "pc_range": tuple(pc_range_m),
        "decoder_layers": decoder_layers,
        "queries": queries,
        "query_init": query_init,
        "dropout": dropout,
        "code_weights": tuple(code_weights),
    }
    model = DETR3D(
        img_backbone=backbone,
        img_neck=neck,
        pts_bbox_head=head,
        motion_weight=motion_weight,
        auxiliary=auxiliary,
        max_boxes=max_boxes,
        centre_range_m=centre_range_m,
    )
    start_images(model)
    return model
