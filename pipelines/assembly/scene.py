"""A scene that stands for all others where there is no data: nuScenes' rig at the size of a profile's images."""

from __future__ import annotations

import torch

from pipelines.assembly.detector import Detector, build_detector, refuse_unable
from profiles import Profile
from qdbev.data.nuscenes.rig import nuscenes_lidar2img
from qdbev.detectors.detector import Scene


def scene_of(profile: Profile) -> Scene:
    """The network's input for images of the profile's size.

    Args:
        profile: Its data section gives the image size, its model section how images are scaled and padded.
    """
    image, (width, height) = profile.model.preparation, profile.data.image_size_px
    padded = [-(-round(side * image.scale) // image.pad_divisor) * image.pad_divisor for side in (height, width)]
    matrices = nuscenes_lidar2img(image_size_px=(width, height), scale=image.scale)
    return Scene((padded[0], padded[1]), torch.from_numpy(matrices).float())


def countable(profile: Profile) -> tuple[Detector, Scene]:
    """The detector of a profile with fresh weights, and the scene on which it is counted by shapes alone.

    Raises:
        ValueError: It cannot run by shapes alone.
    """
    detector = build_detector(profile.model)
    refuse_unable(detector, ability="shapes")
    return detector, scene_of(profile)
