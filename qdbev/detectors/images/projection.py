"""Where points in metres lie in the camera images, and which camera sees them.

All of it runs in float32 also under autocast: half precision would move projected points by pixels.
Shapes: B samples, N cameras, Q points, or pillars of D points.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

MIN_DEPTH_M = 1e-5


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Autocast switched off for a device; the meta device, where shapes alone are computed, has none."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


@torch.no_grad()
def project(points_DQ3: Tensor, *, lidar2img_BN44: Tensor, image_size_B2: Tensor) -> tuple[Tensor, Tensor]:
    """Projects pillars of points, the same for every sample, into the images.

    Args:
        points_DQ3: Metres in the LiDAR frame.
        lidar2img_BN44: LiDAR metres to pixels of the network input.
        image_size_B2: (width, height) of the padded network input [px].

    Returns:
        (B, N, Q, D, 2) fractions of the image, and the bool mask (B, N, Q, D). Points behind a camera get huge numbers.
    """
    with without_autocast(points_DQ3.device):
        pixels = torch.einsum("bnij,dqj->bnqdi", lidar2img_BN44.float(), _homogeneous(points_DQ3))
        return _fractions(pixels, image_size_B2=image_size_B2)


def project_each(points_BQ3: Tensor, *, lidar2img_BN44: Tensor, image_size_B2: Tensor) -> tuple[Tensor, Tensor]:
    """The same of each sample's own points, with gradients to them: (B, N, Q, 1, 2), and the mask (B, N, Q, 1)."""
    with without_autocast(points_BQ3.device):
        pixels = torch.einsum("bnij,bqj->bnqi", lidar2img_BN44.float(), _homogeneous(points_BQ3))
        return _fractions(pixels[..., None, :], image_size_B2=image_size_B2)


def _homogeneous(points: Tensor) -> Tensor:
    return torch.cat([points, torch.ones_like(points[..., :1])], -1).float()


def _fractions(pixels_BNQD4: Tensor, *, image_size_B2: Tensor) -> tuple[Tensor, Tensor]:
    depth = pixels_BNQD4[..., 2]
    size = image_size_B2.float()[:, None, None, None]
    uv = pixels_BNQD4[..., :2] / depth.clamp(min=MIN_DEPTH_M)[..., None] / size
    return uv, ((uv > 0) & (uv < 1)).all(-1) & (depth > MIN_DEPTH_M)
