"""The rig: cameras and one LiDAR, placed like nuScenes' unless stated, jittered per scene, and their projections.

Poses and intrinsics are those of nuScenes scene-0061 (calibrated_sensor table), rounded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qdbev.data.mounts import FULL_PX, Mount
from qdbev.data.synthetic.geometry import Array, multiply, rotation_matrix

NUSCENES_MOUNTS = (
    Mount("CAM_FRONT", (1.7008, 0.0159, 1.5110), (0.4998, -0.5030, 0.4998, -0.4974), (1266.42, 816.27, 491.51)),
    Mount("CAM_FRONT_RIGHT", (1.5508, -0.4934, 1.4957), (0.2060, -0.2027, 0.6825, -0.6714), (1260.85, 807.97, 495.33)),
    Mount("CAM_FRONT_LEFT", (1.5239, 0.4946, 1.5093), (0.6757, -0.6736, 0.2121, -0.2112), (1272.60, 826.62, 479.75)),
    Mount("CAM_BACK", (0.0283, 0.0035, 1.5791), (0.5038, -0.4974, -0.4942, 0.5046), (809.22, 829.22, 481.78)),
    Mount("CAM_BACK_LEFT", (1.0357, 0.4848, 1.5910), (0.6924, -0.7032, -0.1165, 0.1120), (1256.74, 792.11, 492.78)),
    Mount("CAM_BACK_RIGHT", (1.0149, -0.4806, 1.5624), (0.1228, -0.1324, -0.7004, 0.6905), (1259.51, 807.25, 501.20)),
)
CHANNELS = tuple(mount.channel for mount in NUSCENES_MOUNTS)
_LIDAR = ((0.9437, 0.0, 1.8402), (0.70780, -0.00649, 0.01065, -0.70631))

# Exposure relative to the LiDAR's time stamp [microseconds]: the LiDAR turns and triggers one camera after the other.
# Cameras of other vehicles are exposed with it.
OFFSETS_US = {
    "CAM_FRONT_LEFT": -43000,
    "CAM_FRONT": -35000,
    "CAM_FRONT_RIGHT": -27000,
    "CAM_BACK_RIGHT": -20000,
    "CAM_BACK": -10000,
    "CAM_BACK_LEFT": 0,
    "LIDAR_TOP": 0,
}


@dataclass(frozen=True)
class Sensor:
    """A sensor fixed to the ego vehicle; ``intrinsic`` (3, 3) is None for the LiDAR."""

    channel: str
    translation: Array
    quaternion: Array
    intrinsic: Array | None

    @property
    def rotation(self) -> Array:
        """Sensor axes in the ego frame, (3, 3)."""
        return rotation_matrix(self.quaternion)


def _jittered(quaternion: tuple[float, ...], rng: np.random.Generator) -> Array:
    """The rotation with a small extra turn, as one calibration differs from the next."""
    half = np.deg2rad(rng.normal(0, [0.15, 0.25, 0.5])) / 2
    turn = np.array([1.0, *half])
    rotated = multiply(turn / np.linalg.norm(turn), np.array(quaternion))
    return rotated / np.linalg.norm(rotated)


def build_rig(
    rng: np.random.Generator, *, image_size_px: tuple[int, int], mounts: Sequence[Mount] = NUSCENES_MOUNTS
) -> list[Sensor]:
    """The cameras in their order, then the LiDAR.

    Args:
        rng: Draws the jitter of this scene's calibration.
        image_size_px: Width and height. Pixels are square: the focal length goes with the width alone, and the
            principal point keeps its relative place, so the horizon does.
        mounts: Of the cameras.
    """
    (width, height), (full_width, full_height) = image_size_px, FULL_PX
    sensors = []
    for mount in mounts:
        focal, cx, cy = mount.lens
        f = focal * width / full_width * rng.normal(1, 0.003)
        intrinsic = np.array([[f, 0, cx * width / full_width], [0, f, cy * height / full_height], [0, 0, 1]])
        moved = np.array(mount.translation) + rng.normal(0, 0.02, 3)
        sensors.append(Sensor(mount.channel, moved, _jittered(mount.rotation, rng), intrinsic))
    translation, quaternion, _ = *_LIDAR, None
    lidar = np.array(translation) + rng.normal(0, 0.01, 3)
    return [*sensors, Sensor("LIDAR_TOP", lidar, np.array(quaternion) / np.linalg.norm(quaternion), None)]
