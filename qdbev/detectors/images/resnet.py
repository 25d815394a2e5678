"""The residual network on each camera image: mmdet's by numbers, and one whose first layer cuts patches.

A patch stem is cheap where images are small and the device is slow. The standard stem (7x7 stride 2, then max pooling)
costs a quarter of a small ResNet's time for its two large maps; a 4x4 convolution with stride 4 gives the same stride.
Everything after the stem, and every name, is mmdet's ResNet.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmdet.models.backbones import ResNet
from mmdet3d.registry import MODELS
from torch import nn

from qdbev.detectors.images.network import ImageNetwork
from qdbev.detectors.quiet import without_lists
from qdbev.ops.deformable_convolution import DeformableConv

PATCH = 4


@MODELS.register_module()
class PatchResNet(ResNet):  # type: ignore[misc]  # mmdet is untyped
    """mmdet's ResNet with a 4x4 convolution of stride 4 as its stem."""

    def _make_stem_layer(self, in_channels: int, stem_channels: int) -> None:
        super()._make_stem_layer(in_channels, stem_channels)
        self.conv1 = nn.Conv2d(in_channels, stem_channels, PATCH, stride=PATCH, bias=False)
        self.maxpool = nn.Identity()


STEMS = {"standard": "mmdet.ResNet", "patch": PatchResNet.__name__}


def resnet_config(
    *,
    depth: int,
    style: str,
    base_channels: int,
    stages: int,
    out_indices: Sequence[int],
    dcn_stages: Sequence[bool],
    frozen_stages: int,
    norm_frozen: bool,
    with_checkpointing: bool,
    stem: str = "standard",
) -> dict[str, Any]:
    """A config of mmdet's ResNet; the arguments are explained in ``build_bevformer``.

    Raises:
        ValueError: an unknown stem.
    """
    if stem not in STEMS:
        raise ValueError(f"backbone_stem is {stem!r}, expected one of {list(STEMS)}")
    deformable = {"type": DeformableConv, "deform_groups": 1, "fallback_on_stride": False}
    return {
        "type": STEMS[stem],
        "depth": depth,
        "style": style,
        "base_channels": base_channels,
        "num_stages": stages,
        "strides": (1, 2, 2, 2)[:stages],
        "dilations": (1, 1, 1, 1)[:stages],
        "out_indices": tuple(out_indices),
        "frozen_stages": frozen_stages,
        "norm_cfg": {"type": "BN", "requires_grad": not norm_frozen},
        "norm_eval": norm_frozen,
        "with_cp": with_checkpointing,
        "dcn": deformable if any(dcn_stages) else None,
        "stage_with_dcn": tuple(dcn_stages),
    }


def start_images(model: ImageNetwork) -> None:
    """Gives backbone and neck their first values, in silence, and the memory format that they run fastest in."""
    with without_lists():
        model.img_backbone.init_weights()
        model.img_neck.init_weights()
    # convolutions run about twice as fast on a CPU with the channels last
    model.img_backbone.to(memory_format=torch.channels_last)
    model.img_neck.to(memory_format=torch.channels_last)
