"""Numbers of a PETR and a DETR3D that run in milliseconds."""

from __future__ import annotations

from typing import Any

_BOTH: dict[str, Any] = {
    "backbone_depth": 18,
    "backbone_style": "pytorch",
    "backbone_base_channels": 8,
    "backbone_stages": 3,
    "backbone_out_indices": (1, 2),
    "backbone_dcn_stages": (False, False, False),
    "backbone_frozen_stages": -1,
    "backbone_norm_frozen": False,
    "backbone_with_checkpointing": False,
    "neck_in_channels": (16, 32),
    "channels": 16,
    "heads": 2,
    "hidden": 24,
    "dropout": 0.0,
    "pc_range_m": (-51.2, -51.2, -5.0, 51.2, 51.2, 3.0),
    "decoder_layers": 2,
    "queries": 12,
    "query_init": "grid",
    "code_weights": (1.0,) * 8 + (0.2,) * 2,
}
PETR_MITE = _BOTH | {
    "position_range_m": (-61.2, -61.2, -10.0, 61.2, 61.2, 10.0),
    "depths": 5,
    "depth_start_m": 1.0,
}
DETR3D_MITE = _BOTH | {"neck_outputs": 3, "neck_extra_convs": True}
