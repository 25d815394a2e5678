"""The rig of one nuScenes scene: what a cost is counted for where no data set is at hand.

Poses and intrinsics of scene-0061 (table calibrated_sensor of nuScenes, Caesar et al., CVPR 2020).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from qdbev.data.mounts import Mount, lidar_to_images, pose

MOUNTS = (
    Mount(
        "CAM_FRONT",
        (1.70079, 0.01595, 1.51096),
        (0.49980, -0.50303, 0.49978, -0.49737),
        (1266.4172, 816.2670, 491.5071),
    ),
    Mount(
        "CAM_FRONT_RIGHT",
        (1.55085, -0.49340, 1.49575),
        (0.20603, -0.20269, 0.68245, -0.67136),
        (1260.8474, 807.9682, 495.3344),
    ),
    Mount(
        "CAM_FRONT_LEFT",
        (1.52388, 0.49463, 1.50933),
        (0.67573, -0.67363, 0.21214, -0.21123),
        (1272.5979, 826.6155, 479.7517),
    ),
    Mount(
        "CAM_BACK",
        (0.02833, 0.00345, 1.57910),
        (0.50379, -0.49740, -0.49419, 0.50455),
        (809.2210, 829.2196, 481.7784),
    ),
    Mount(
        "CAM_BACK_LEFT",
        (1.03569, 0.48480, 1.59097),
        (0.69242, -0.70316, -0.11648, 0.11203),
        (1256.7415, 792.1126, 492.7757),
    ),
    Mount(
        "CAM_BACK_RIGHT",
        (1.01488, -0.48057, 1.56240),
        (0.12281, -0.13240, -0.70043, 0.69050),
        (1259.5137, 807.2529, 501.1958),
    ),
)
LIDAR = ((0.943713, 0.0, 1.84023), (0.70780, -0.00649, 0.01065, -0.70631))


def nuscenes_lidar2img(*, image_size_px: tuple[int, int], scale: float = 1.0) -> NDArray[np.float64]:
    """(6, 4, 4) LiDAR metres to pixels; arguments as in ``lidar2img``."""
    return lidar2img(MOUNTS, image_size_px=image_size_px, scale=scale)


def lidar2img(mounts: Sequence[Mount], *, image_size_px: tuple[int, int], scale: float = 1.0) -> NDArray[np.float64]:
    """(N, 4, 4) metres of nuScenes' LiDAR to pixels of cameras on any vehicle.

    Args:
        mounts: Of the cameras.
        image_size_px: Width and height of the images; the field of view stays.
        scale: Factor on both sides of the image, as the network's input has it.
    """
    translation, rotation = LIDAR
    lidar2ego = pose(translation, rotation=rotation)
    return lidar_to_images(mounts, lidar2ego=lidar2ego, image_size_px=image_size_px, scale=scale)
