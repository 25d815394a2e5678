"""Distillation: view-guided (QD-BEV Eq. 2 to 6) and channel-wise losses on plain tensors, and their weight."""

from qdbev.distillation.cwd import bev_channel_wise_loss, channel_wise_loss, image_channel_wise_loss
from qdbev.distillation.divergence import elementwise_divergence
from qdbev.distillation.vgd import bev_divergence, image_divergence, spread_over_bev, view_guided_loss, view_mask
from qdbev.distillation.weight import AutoWeight, FixedWeight, Weight

__all__ = [
    "AutoWeight",
    "FixedWeight",
    "Weight",
    "bev_channel_wise_loss",
    "bev_divergence",
    "channel_wise_loss",
    "elementwise_divergence",
    "image_channel_wise_loss",
    "image_divergence",
    "spread_over_bev",
    "view_guided_loss",
    "view_mask",
]
