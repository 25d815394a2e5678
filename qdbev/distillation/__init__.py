"""Distillation losses on plain tensors, their weights, and a teacher's tensors on disk.

View-guided (QD-BEV Eq. 2 to 6), channel-wise, hints, and those of class scores and boxes.
"""

from __future__ import annotations

from qdbev.distillation.cwd import bev_channel_wise_loss, channel_wise_loss, image_channel_wise_loss
from qdbev.distillation.divergence import elementwise_divergence
from qdbev.distillation.feature_cache import FeatureCache
from qdbev.distillation.hints import hint_loss, image_hint_loss
from qdbev.distillation.outputs import box_output_loss, class_output_loss
from qdbev.distillation.vgd import bev_divergence, image_divergence, spread_over_bev, view_guided_loss, view_mask
from qdbev.distillation.weight import AutoWeight, FixedWeight, Weight, Weights

__all__ = [
    "AutoWeight",
    "FeatureCache",
    "FixedWeight",
    "Weight",
    "Weights",
    "bev_channel_wise_loss",
    "bev_divergence",
    "box_output_loss",
    "channel_wise_loss",
    "class_output_loss",
    "elementwise_divergence",
    "hint_loss",
    "image_channel_wise_loss",
    "image_divergence",
    "image_hint_loss",
    "spread_over_bev",
    "view_guided_loss",
    "view_mask",
]
