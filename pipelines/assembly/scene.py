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
        profile: Its data section gives the image size, its model section how images are scaled, cut and padded.
    """
    size = profile.data.image_size_px
    framing = profile.model.framing(size)
    matrices = nuscenes_lidar2img(image_size_px=size, scale=framing.scale)
    matrices[:, 0] -= framing.left_px * matrices[:, 2]
    matrices[:, 1] -= framing.top_px * matrices[:, 2]
    return Scene(framing.network_px, torch.from_numpy(matrices).float())


def countable(profile: Profile) -> tuple[Detector, Scene]:
    """The detector of a profile with fresh weights, and the scene on which it is counted by shapes alone.

    Raises:
        ValueError: It cannot run by shapes alone.
    """
    detector = build_detector(profile.model, rig=profile.data.rig)
    refuse_unable(detector, ability="shapes")
    return detector, scene_of(profile)
