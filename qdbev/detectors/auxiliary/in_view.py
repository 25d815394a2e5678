"""Which objects a camera has in its image, and where.

Shapes: B samples, N cameras, O objects of the whole batch, V (object, camera) pairs in view.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from qdbev.detectors.auxiliary.objects import MIN_SIGMA_CELLS, Objects
from qdbev.detectors.images.projection import without_autocast

MIN_DEPTH_M = 1.0


class Cameras(Protocol):
    """Where a batch's cameras look, as ``FrameBatch`` says it."""

    @property
    def lidar2img_BN44(self) -> Tensor:
        """LiDAR metres to pixels of the network's input."""

    @property
    def image_size_B2(self) -> Tensor:
        """Width and height of that input [px]."""


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


def in_view(objects: Objects, cameras: Cameras, *, rows: int, columns: int) -> InView:
    """Projects all centres into the cameras of their sample; ``rows`` and ``columns`` are those of the feature map.

    In float32 also under autocast: half precision would move centres by pixels.
    """
    with torch.no_grad(), without_autocast(cameras.lidar2img_BN44.device):
        return _in_view(objects, cameras, rows=rows, columns=columns)


def _in_view(objects: Objects, cameras: Cameras, *, rows: int, columns: int) -> InView:
    matrix_ON44 = cameras.lidar2img_BN44[objects.sample_O]
    centre_O4 = torch.cat([objects.centres_O3, torch.ones_like(objects.centres_O3[:, :1])], -1)
    pixels_ON3 = torch.einsum("onij,oj->oni", matrix_ON44, centre_O4)[..., :3]
    depth_ON = pixels_ON3[..., 2]
    cells_per_px = torch.tensor([columns, rows], device=depth_ON.device) / cameras.image_size_B2[objects.sample_O]
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
