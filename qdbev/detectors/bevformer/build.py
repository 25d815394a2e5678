"""A BEVFormer from flat numbers: every published variant, and nano, is one set of arguments."""

from __future__ import annotations

from collections.abc import Sequence

from qdbev.detectors.bevformer.detector import BEVFormer
from qdbev.detectors.images.resnet import resnet_config, start_images
from qdbev.detectors.queries.decoded import CENTRE_RANGE_M

OFFICIAL_CODE_WEIGHTS = (1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.2, 0.2)
OFFICIAL_PC_RANGE_M = (-51.2, -51.2, -5.0, 51.2, 51.2, 3.0)


def build_bevformer(
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
    backbone_stem: str = "standard",
    neck_in_channels: Sequence[int],
    neck_outputs: int,
    neck_extra_convs: bool,
    channels: int,
    heads: int,
    hidden: int,
    dropout: float,
    bev_rows: int,
    bev_columns: int,
    heights: int,
    pc_range_m: Sequence[float],
    rotation_centre_px: Sequence[float] | None,
    rotation_nearest: bool,
    encoder_layers: int,
    temporal_points: int,
    spatial_points: int,
    decoder_layers: int,
    decoder_points: int,
    queries: int,
    query_init: str,
    code_weights: Sequence[float] = OFFICIAL_CODE_WEIGHTS,
    motion_weight: float = 0.0,
    cameras: int = 6,
    classes: int = 10,
    max_boxes: int = 300,
    centre_range_m: Sequence[float] = CENTRE_RANGE_M,
    auxiliary: bool = False,
    auxiliary_weights: dict[str, float] | None = None,
) -> BEVFormer:
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
        backbone_stem: "standard" (7x7 and max pooling) or "patch" (4x4 with stride 4).
        neck_in_channels: Channels of the maps named by ``backbone_out_indices``.
        neck_outputs: Levels that the FPN gives.
        neck_extra_convs: Levels beyond the inputs come from a stride-2 convolution on the last output.
        channels: Embedding size, also of the neck's output.
        heads: Attention heads.
        hidden: Width inside the feed-forward blocks.
        dropout: Rate in all attention and feed-forward blocks.
        bev_rows: BEV cells along y.
        bev_columns: BEV cells along x.
        heights: Points in a pillar.
        pc_range_m: x, y, z minimum then maximum of the BEV grid [m].
        rotation_centre_px: Fixed point of the history's rotation, (100, 100) for official weights; None is the middle.
        rotation_nearest: Rotate the history by nearest neighbour (official) instead of bilinearly.
        encoder_layers: BEV encoder layers.
        temporal_points: Sampling points of temporal self-attention.
        spatial_points: Sampling points of spatial cross-attention, a multiple of ``heights``.
        decoder_layers: Object decoder layers.
        decoder_points: Sampling points of the decoder's attention over the BEV.
        queries: Object queries.
        query_init: "random" (official) or "grid": first object positions spread over the range.
        code_weights: Weight of each box code entry in the L1 loss.
        motion_weight: Weight of the squared error of matched queries' heading and velocity.
        cameras: Number of cameras.
        classes: Number of classes.
        max_boxes: Boxes per sample at most.
        centre_range_m: Boxes with their centre outside are dropped.
        auxiliary: With dense heads that only training uses.
        auxiliary_weights: Weights of their losses where they differ from the usual ones.

    Returns:
        The detector in training mode, on the CPU.

    Raises:
        ValueError: arguments that do not fit each other.
    """
    if len(neck_in_channels) != len(backbone_out_indices):
        raise ValueError(
            f"neck_in_channels {list(neck_in_channels)} and backbone_out_indices {list(backbone_out_indices)} "
            "name different numbers of maps"
        )
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
        stem=backbone_stem,
    )
    neck = {
        "type": "mmdet.FPN",
        "in_channels": list(neck_in_channels),
        "out_channels": channels,
        "num_outs": neck_outputs,
        "add_extra_convs": "on_output" if neck_extra_convs else False,
    }
    head = {
        "type": "BEVFormerHead",
        "classes": classes,
        "channels": channels,
        "heads": heads,
        "hidden": hidden,
        "cameras": cameras,
        "levels": neck_outputs,
        "bev_rows": bev_rows,
        "bev_columns": bev_columns,
        "heights": heights,
        "pc_range": tuple(pc_range_m),
        "rotation_centre_px": None if rotation_centre_px is None else tuple(rotation_centre_px),
        "rotation_nearest": rotation_nearest,
        "encoder_layers": encoder_layers,
        "temporal_points": temporal_points,
        "spatial_points": spatial_points,
        "decoder_layers": decoder_layers,
        "decoder_points": decoder_points,
        "queries": queries,
        "query_init": query_init,
        "dropout": dropout,
        "code_weights": tuple(code_weights),
    }
    model = BEVFormer(
        img_backbone=backbone,
        img_neck=neck,
        pts_bbox_head=head,
        motion_weight=motion_weight,
        auxiliary=auxiliary,
        auxiliary_weights=auxiliary_weights,
        max_boxes=max_boxes,
        centre_range_m=centre_range_m,
    )
    start_images(model)
    return model
