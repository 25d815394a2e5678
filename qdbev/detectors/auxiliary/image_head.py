"""Losses on image features, for training alone: what is seen in each cell, how far away, and which way it heads.

The state dict holds the head under ``auxiliary.``; nothing at inference reads it.

Shapes: B samples, N cameras, E = B N images, C channels, H W of the feature map.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from qdbev.detectors.auxiliary.in_view import Cameras, in_view
from qdbev.detectors.auxiliary.objects import Objects, dense_head, mean_squared
from qdbev.detectors.boxes.centre_heatmap import centre_focal, draw_centres

WEIGHTS = {"image_heatmap": 0.5, "image_depth": 0.2, "image_angle": 0.2}


class ImageHead(nn.Module):
    """Class heat, log depth, sin and cos of the angle between an object's heading and the line of sight."""

    def __init__(self, *, channels: int, classes: int, weights: Mapping[str, float] | None = None) -> None:
        """Builds it.

        Args:
            channels: Of the feature map.
            classes: Number of classes.
            weights: Of the losses where they differ from ``WEIGHTS``.
        """
        super().__init__()
        self.classes, self.weights = classes, {**WEIGHTS, **(weights or {})}
        self.dense = dense_head(channels=channels, outputs=classes + 3, classes=classes)

    def forward(self, image_BNCHW: Tensor, *, cameras: Cameras, objects: Objects) -> dict[str, Tensor]:
        """Weighted losses named ``auxiliary.loss_...``."""
        losses = self._losses(self.dense(image_BNCHW.flatten(0, 1)).float(), cameras, objects)
        return {f"auxiliary.loss_{name}": loss * self.weights[name] for name, loss in losses.items()}

    def _losses(self, out_ECHW: Tensor, cameras: Cameras, objects: Objects) -> dict[str, Tensor]:
        rows, columns = out_ECHW.shape[-2:]
        view = in_view(objects, cameras, rows=rows, columns=columns)
        heat = draw_centres(
            view.cells_V2,
            sigma_O=view.sigma_V,
            maps_O=view.image_V * self.classes + objects.labels_O[view.object_V],
            count=len(out_ECHW) * self.classes,
            rows=rows,
            columns=columns,
        )
        at_V3 = out_ECHW[view.image_V, self.classes :, view.cells_V2[:, 1], view.cells_V2[:, 0]]
        angle = torch.stack([view.angle_V.sin(), view.angle_V.cos()], -1)
        return {
            "image_heatmap": centre_focal(
                out_ECHW[:, : self.classes].flatten(0, 1), targets_GHW=heat, objects=len(view.image_V)
            ),
            "image_depth": mean_squared(at_V3[:, :1], view.depth_V.log()[:, None] - 2),
            "image_angle": mean_squared(at_V3[:, 1:], angle),
        }
