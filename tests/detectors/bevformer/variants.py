"""The arguments of ``build_bevformer`` for each variant, as numbers."""

from __future__ import annotations

from typing import Any

_OFFICIAL: dict[str, Any] = {
    "backbone_base_channels": 64,
    "backbone_stages": 4,
    "backbone_frozen_stages": 1,
    "backbone_norm_frozen": True,
    "channels": 256,
    "heads": 8,
    "hidden": 512,
    "dropout": 0.1,
    "heights": 4,
    "pc_range_m": (-51.2, -51.2, -5.0, 51.2, 51.2, 3.0),
    "rotation_centre_px": (100.0, 100.0),
    "rotation_nearest": True,
    "temporal_points": 4,
    "spatial_points": 8,
    "decoder_layers": 6,
    "decoder_points": 4,
    "queries": 900,
    "query_init": "random",
}

TINY: dict[str, Any] = _OFFICIAL | {
    "backbone_depth": 50,
    "backbone_style": "pytorch",
    "backbone_out_indices": (3,),
    "backbone_dcn_stages": (False, False, False, False),
    "backbone_with_checkpointing": False,
    "neck_in_channels": (2048,),
    "neck_outputs": 1,
    "neck_extra_convs": False,
    "bev_rows": 50,
    "bev_columns": 50,
    "encoder_layers": 3,
}

SMALL: dict[str, Any] = TINY | {
    "backbone_depth": 101,
    "backbone_style": "caffe",
    "backbone_dcn_stages": (False, False, True, True),
    "backbone_with_checkpointing": True,
    "bev_rows": 150,
    "bev_columns": 150,
}

BASE: dict[str, Any] = SMALL | {
    "backbone_with_checkpointing": False,
    "backbone_out_indices": (1, 2, 3),
    "neck_in_channels": (512, 1024, 2048),
    "neck_outputs": 4,
    "neck_extra_convs": True,
    "bev_rows": 200,
    "bev_columns": 200,
    "encoder_layers": 6,
}

NANO: dict[str, Any] = {
    "backbone_depth": 18,
    "backbone_style": "pytorch",
    "backbone_base_channels": 32,
    "backbone_stages": 3,
    "backbone_out_indices": (1, 2),
    "backbone_dcn_stages": (False, False, False),
    "backbone_frozen_stages": -1,
    "backbone_norm_frozen": False,
    "backbone_with_checkpointing": False,
    "neck_in_channels": (64, 128),
    "neck_outputs": 2,
    "neck_extra_convs": False,
    "channels": 64,
    "heads": 4,
    "hidden": 128,
    "dropout": 0.0,
    "bev_rows": 40,
    "bev_columns": 40,
    "heights": 4,
    "pc_range_m": (-51.2, -51.2, -5.0, 51.2, 51.2, 3.0),
    "rotation_centre_px": None,
    "rotation_nearest": False,
    "encoder_layers": 2,
    "temporal_points": 4,
    "spatial_points": 4,
    "decoder_layers": 3,
    "decoder_points": 4,
    "queries": 150,
    "query_init": "grid",
}

VARIANTS = {"nano": NANO, "tiny": TINY, "small": SMALL, "base": BASE}
