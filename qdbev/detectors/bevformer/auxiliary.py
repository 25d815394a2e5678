"""Losses for training only: a dense head on the BEV beside that on the finest image features.

They give every cell a gradient while the queries still search, and teach heading and velocity with a squared error: an
L1 loss alone sits at the median, which is "standing, no heading". The state dict holds them under ``auxiliary.``;
nothing at inference reads them.

Shapes: B samples, N cameras, Q BEV cells, C channels, O objects of the whole batch, H W of a map.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from qdbev.detectors.auxiliary import Cameras, ImageHead, Objects, dense_head, mean_squared
from qdbev.detectors.auxiliary.objects import MIN_SIGMA_CELLS
from qdbev.detectors.bevformer.transformer import Grid
from qdbev.detectors.boxes.centre_heatmap import centre_focal, draw_centres

VELOCITY_SCALE_MPS = 5.0
WEIGHTS = {"bev_heatmap": 0.5, "bev_heading": 0.5, "bev_velocity": 0.5}


class AuxiliaryHeads(nn.Module):
    """Both heads; that on the BEV says class heat, sin and cos of yaw, velocity."""

    def __init__(self, *, channels: int, classes: int, grid: Grid, weights: Mapping[str, float] | None = None) -> None:
        """Builds the heads for the given grid; ``weights`` are those of losses that differ from the usual ones."""
        super().__init__()
        self.classes, self.grid, self.weights = classes, grid, {**WEIGHTS, **(weights or {})}
        self.bev = dense_head(channels=channels, outputs=classes + 4, classes=classes)
        self.image = ImageHead(channels=channels, classes=classes, weights=weights)

    def forward(self, bev_BQC: Tensor, *, image_BNCHW: Tensor, frames: Cameras, objects: Objects) -> dict[str, Tensor]:
        """Weighted losses named ``auxiliary.loss_...``."""
        bev_BCHW = bev_BQC.transpose(1, 2).unflatten(-1, (self.grid.rows, self.grid.columns))
        losses = self._bev_losses(self.bev(bev_BCHW).float(), objects)
        weighted = {f"auxiliary.loss_{name}": loss * self.weights[name] for name, loss in losses.items()}
        of_image: dict[str, Tensor] = self.image(image_BNCHW, cameras=frames, objects=objects)
        return weighted | of_image

    def _bev_losses(self, out_BCHW: Tensor, objects: Objects) -> dict[str, Tensor]:
        grid, boxes = self.grid, objects.boxes_O9
        size, low = boxes.new_tensor(grid.cell_m), boxes.new_tensor(grid.pc_range[:2])
        cells_O2 = ((boxes[:, :2] - low) / size).floor().long()
        inside = ((cells_O2 >= 0) & (cells_O2 < cells_O2.new_tensor([grid.columns, grid.rows]))).all(-1)
        cells, boxes, sample = cells_O2[inside], boxes[inside], objects.sample_O[inside]
        heat = draw_centres(
            cells,
            sigma_O=(boxes[:, 3:5].amax(-1) / size.min() / 4).clamp(min=MIN_SIGMA_CELLS),
            maps_O=sample * self.classes + objects.labels_O[inside],
            count=len(out_BCHW) * self.classes,
            rows=grid.rows,
            columns=grid.columns,
        )
        at_O4 = out_BCHW[sample, self.classes :, cells[:, 1], cells[:, 0]]
        yaw = boxes[:, 6]
        return {
            "bev_heatmap": centre_focal(
                out_BCHW[:, : self.classes].flatten(0, 1), targets_GHW=heat, objects=len(boxes)
            ),
            "bev_heading": mean_squared(at_O4[:, :2], torch.stack([yaw.sin(), yaw.cos()], -1)),
            "bev_velocity": mean_squared(at_O4[:, 2:], boxes[:, 7:9] / VELOCITY_SCALE_MPS),
        }
