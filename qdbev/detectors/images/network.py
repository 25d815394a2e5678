"""A detector on camera images as far as its neck: the parts by name, and the stages from images to feature levels.

Shapes: B samples, N cameras, C channels, H W of an image or feature map.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmdet3d.models.detectors import Base3DDetector
from mmdet3d.registry import MODELS
from torch import Tensor


class ImageNetwork(Base3DDetector):
    """Backbone, neck and head; names as in the official checkpoints."""

    def __init__(
        self,
        img_backbone: dict[str, Any],
        img_neck: dict[str, Any],
        pts_bbox_head: dict[str, Any],
        data_preprocessor: dict[str, Any] | None = None,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        """Builds the parts from the registry.

        Args:
            img_backbone: An mmdet backbone.
            img_neck: An mmdet neck.
            pts_bbox_head: The head.
            data_preprocessor: As in mmengine; images come normalised, so none is needed.
            init_cfg: As in mmengine.
        """
        super().__init__(data_preprocessor=data_preprocessor, init_cfg=init_cfg)
        self.img_backbone = MODELS.build(img_backbone)
        self.img_neck = MODELS.build(img_neck)
        self.pts_bbox_head = MODELS.build(pts_bbox_head)

    def backbone_features(self, img_BNCHW: Tensor) -> tuple[Tensor, ...]:
        """Backbone maps of all images, each (B * N, C, H, W)."""
        images = img_BNCHW.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        return tuple(self.img_backbone(images))

    def neck_features(self, backbone_maps: Sequence[Tensor], *, cameras: int) -> list[Tensor]:
        """Neck levels (B, N, C, H, W) from backbone maps."""
        return [level.unflatten(0, (-1, cameras)) for level in self.img_neck(tuple(backbone_maps))]

    def extract_feat(self, img_BNCHW: Tensor) -> list[Tensor]:
        """Neck levels (B, N, C, H, W) of one frame."""
        return self.neck_features(self.backbone_features(img_BNCHW), cameras=img_BNCHW.shape[1])
