"""The rig of one nuScenes scene: what a cost is counted for where no data set is at hand.

Poses and intrinsics of scene-0061 (table calibrated_sensor of nuScenes, Caesar et al., CVPR 2020).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pyquaternion import Quaternion

NUSCENES_PX = (1600, 900)

# channel -> camera in the ego frame: translation [m], rotation (w, x, y, z); (focal length, cx, cy) [px]
CAMERAS = {
    "CAM_FRONT": ((1.70079, 0.01595, 1.51096), (0.49980, -0.50303, 0.49978, -0.49737), (1266.4172, 816.2670, 491.5071)),
    "CAM_FRONT_RIGHT": (
        (1.55085, -0.49340, 1.49575),
        (0.20603, -0.20269, 0.68245, -0.67136),
        (1260.8474, 807.9682, 495.3344),
    ),
    "CAM_FRONT_LEFT": (
        (1.52388, 0.49463, 1.50933),
        (0.67573, -0.67363, 0.21214, -0.21123),
        (1272.5979, 826.6155, 479.7517),
    ),
    "CAM_BACK": ((0.02833, 0.00345, 1.57910), (0.50379, -0.49740, -0.49419, 0.50455), (809.2210, 829.2196, 481.7784)),
    "CAM_BACK_LEFT": (
        (1.03569, 0.48480, 1.59097),
        (0.69242, -0.70316, -0.11648, 0.11203),
        (1256.7415, 792.1126, 492.7757),
    ),
    "CAM_BACK_RIGHT": (
        (1.01488, -0.48057, 1.56240),
        (0.12281, -0.13240, -0.70043, 0.69050),
        (1259.5137, 807.2529, 501.1958),
    ),
}
LIDAR = ((0.943713, 0.0, 1.84023), (0.70780, -0.00649, 0.01065, -0.70631))


def nuscenes_lidar2img(*, image_size_px: tuple[int, int], scale: float = 1.0) -> NDArray[np.float64]:
    """(6, 4, 4) LiDAR metres to pixels.

    Args:
        image_size_px: Width and height of the images; the field of view stays nuScenes'.
        scale: Factor on both sides of the image, as the network's input has it.
    """
    lidar2ego = _pose(*LIDAR)
    factors = [scale * own / real for own, real in zip(image_size_px, NUSCENES_PX, strict=True)]
    matrices = []
    for translation, rotation, (focal, cx, cy) in CAMERAS.values():
        intrinsic = np.eye(4)
        intrinsic[0, 0] = intrinsic[1, 1] = focal * factors[0]  # square pixels
        intrinsic[0, 2], intrinsic[1, 2] = cx * factors[0], cy * factors[1]
        matrices.append(intrinsic @ np.linalg.inv(_pose(translation, rotation)) @ lidar2ego)
    return np.stack(matrices)


def _pose(translation: tuple[float, ...], rotation: tuple[float, ...]) -> NDArray[np.float64]:
    pose: NDArray[np.float64] = Quaternion(rotation).normalised.transformation_matrix
    pose[:3, 3] = translation
    return pose
