"""Losses for training only: dense heads on the BEV and on the finest image features.

They give every cell a gradient while the queries still search, and teach heading and velocity with a squared error: an
L1 loss alone sits at the median, which is "standing, no heading". The state dict holds them under ``auxiliary.``;
nothing at inference reads them.

Shapes: B samples, N cameras, Q BEV cells, C channels, O objects of the whole batch, V (object, camera) pairs in view,
H W of a map.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from qdbev.detectors.bevformer.transformer import Grid
from qdbev.detectors.boxes.centre_heatmap import centre_focal, draw_centres
from qdbev.detectors.images.frame_batch import FrameBatch

VELOCITY_SCALE_MPS = 5.0
MIN_DEPTH_M = 1.0
HEAT_LOGIT = -2.19  # sigmoid of it is 0.1
MIN_SIGMA_CELLS = 0.7


@dataclass(frozen=True)
class AuxiliaryWeights:
    """Weight of each loss."""

    bev_heatmap: float = 0.5
    bev_heading: float = 0.5
    bev_velocity: float = 0.5
    image_heatmap: float = 0.5
    image_depth: float = 0.2
    image_angle: float = 0.2


@dataclass(frozen=True)
class Objects:
    """Ground truth of the whole batch: boxes (O, 9) as in mmdet3d, labels, and the sample of each."""

    boxes_O9: Tensor
    labels_O: Tensor
    sample_O: Tensor

    @property
    def centres_O3(self) -> Tensor:
        """Gravity centres [m]."""
        return torch.cat([self.boxes_O9[:, :2], self.boxes_O9[:, 2:3] + self.boxes_O9[:, 5:6] / 2], -1)


def gather_objects(boxes: list[Tensor], labels: list[Tensor]) -> Objects:
    """One list from the boxes and labels of each sample."""
    sample = [torch.full_like(labels_M, index) for index, labels_M in enumerate(labels)]
    return Objects(torch.cat(boxes).float(), torch.cat(labels), torch.cat(sample))


def dense_head(*, channels: int, outputs: int, classes: int) -> nn.Sequential:
    """3x3, ReLU, 1x1; the first ``classes`` outputs start at a probability of 0.1."""
    head = nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(channels, outputs, 1)
    )
    bias = head[-1].bias
    assert isinstance(bias, Tensor)
    with torch.no_grad():
        bias[:classes] = HEAT_LOGIT
    return head


class AuxiliaryHeads(nn.Module):
    """Both heads.

    On the BEV: class heat, sin and cos of yaw, velocity. On the image: class heat, log depth, sin and cos of the angle
    between the heading and the line of sight.
    """

    def __init__(self, *, channels: int, classes: int, grid: Grid, weights: AuxiliaryWeights) -> None:
        """Builds the heads for the given grid."""
        super().__init__()
        self.classes, self.grid, self.weights = classes, grid, weights
        self.bev = dense_head(channels=channels, outputs=classes + 4, classes=classes)
        self.image = dense_head(channels=channels, outputs=classes + 3, classes=classes)

    def forward(
        self, bev_BQC: Tensor, *, image_BNCHW: Tensor, frames: FrameBatch, objects: Objects
    ) -> dict[str, Tensor]:
        """Weighted losses named ``auxiliary.loss_...``."""
        bev_BCHW = bev_BQC.transpose(1, 2).unflatten(-1, (self.grid.rows, self.grid.columns))
        losses = self._bev_losses(self.bev(bev_BCHW).float(), objects)
        losses |= self._image_losses(self.image(image_BNCHW.flatten(0, 1)).float(), frames, objects)
        return {f"auxiliary.loss_{name}": loss * getattr(self.weights, name) for name, loss in losses.items()}

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

    def _image_losses(self, out_ECHW: Tensor, frames: FrameBatch, objects: Objects) -> dict[str, Tensor]:
        rows, columns = out_ECHW.shape[-2:]
        view = in_view(objects, frames, rows=rows, columns=columns)
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


def mean_squared(predicted_O: Tensor, target_O: Tensor) -> Tensor:
    """Sum of squares per object, averaged over the objects with a finite target; zero, with a gradient, without any."""
    finite = target_O.isfinite().all(-1)
    return (predicted_O[finite] - target_O[finite]).square().sum() / finite.sum().clamp(min=1)


@dataclass(frozen=True)
class InView:
    """Pairs of an object and a camera that has its centre in the image.

    Attributes:
        object_V: object index.
        image_V: image index, sample * cameras + camera.
        cells_V2: (x, y) cell of the projected centre.
        depth_V: distance along the optical axis [m].
        sigma_V: width of the bump in cells.
        angle_V: yaw minus the direction from the camera to the object [rad].
    """

    object_V: Tensor
    image_V: Tensor
    cells_V2: Tensor
    depth_V: Tensor
    sigma_V: Tensor
    angle_V: Tensor


@torch.no_grad()
def in_view(objects: Objects, frames: FrameBatch, *, rows: int, columns: int) -> InView:
    """Projects all centres into the cameras of their sample; ``rows`` and ``columns`` are those of the feature map."""
    matrix_ON44 = frames.lidar2img_BN44[objects.sample_O]
    centre_O4 = torch.cat([objects.centres_O3, torch.ones_like(objects.centres_O3[:, :1])], -1)
    pixels_ON3 = torch.einsum("onij,oj->oni", matrix_ON44, centre_O4)[..., :3]
    depth_ON = pixels_ON3[..., 2]
    cells_per_px = torch.tensor([columns, rows], device=depth_ON.device) / frames.image_size_B2[objects.sample_O]
    uv_ON2 = pixels_ON3[..., :2] / depth_ON.clamp(min=MIN_DEPTH_M)[..., None] * cells_per_px[:, None]
    limit = uv_ON2.new_tensor([columns, rows])
    visible = (depth_ON > MIN_DEPTH_M) & ((uv_ON2 >= 0) & (uv_ON2 < limit)).all(-1)
    which, camera = visible.nonzero(as_tuple=True)
    matrix_V44, depth_V = matrix_ON44[which, camera], depth_ON[which, camera]
    radius_px = focal_length_px(matrix_V44) * objects.boxes_O9[which, 3:6].amax(-1) / 2 / depth_V
    sight_V2 = objects.boxes_O9[which, :2] - camera_position(matrix_V44)[:, :2]
    return InView(
        object_V=which,
        image_V=objects.sample_O[which] * matrix_ON44.shape[1] + camera,
        cells_V2=uv_ON2[which, camera].floor().long(),
        depth_V=depth_V,
        sigma_V=(radius_px * cells_per_px[which, 0] / 2).clamp(min=MIN_SIGMA_CELLS, max=rows / 4),
        angle_V=objects.boxes_O9[which, 6] - torch.atan2(sight_V2[:, 1], sight_V2[:, 0]),
    )


def focal_length_px(lidar2img_V44: Tensor) -> Tensor:
    """Horizontal focal length of K [R t]: the part of its first row across the optical axis, which is its third row."""
    across, axis = lidar2img_V44[:, 0, :3], lidar2img_V44[:, 2, :3]
    return (across - (across * axis).sum(-1, keepdim=True) * axis).norm(dim=-1)


def camera_position(lidar2img_V44: Tensor) -> Tensor:
    """Centre of projection in the LiDAR frame [m]: the point that the matrix sends to zero."""
    return -torch.linalg.solve(lidar2img_V44[:, :3, :3], lidar2img_V44[:, :3, 3])
