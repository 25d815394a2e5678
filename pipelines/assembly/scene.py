"""A scene that stands for all others where there is no data: a profile's rig at the size of its images."""

from __future__ import annotations

import torch

from pipelines.assembly.detector import Detector, build_detector, refuse_unable
from profiles import Profile
from profiles.sections.rig import NUSCENES_RIG, RigProfile
from qdbev.data.mounts import Mount, evenly_around, looking
from qdbev.data.nuscenes.rig import MOUNTS, lidar2img
from qdbev.data.synthetic.sensors.cameras import NUSCENES_MOUNTS
from qdbev.data.synthetic.shapes.catalogue import ATTRIBUTES
from qdbev.data.synthetic.vehicle import Thing, Vehicle
from qdbev.detectors.detector import Scene


def scene_of(profile: Profile) -> Scene:
    """The network's input for images of the profile's size.

    Args:
        profile: Its data section gives the image size, its model section how images are scaled, cut and padded.
    """
    size = profile.data.image_size_px
    framing = profile.model.framing(size)
    mounts = mounts_of(profile.data.rig) or MOUNTS
    matrices = lidar2img(mounts, image_size_px=size, scale=framing.scale)
    matrices[:, 0] -= framing.left_px * matrices[:, 2]
    matrices[:, 1] -= framing.top_px * matrices[:, 2]
    return Scene(framing.network_px, torch.from_numpy(matrices).float(), padding_px=framing.padding_px)


def countable(profile: Profile) -> tuple[Detector, Scene]:
    """The detector of a profile with fresh weights, and the scene on which it is counted by shapes alone.

    Raises:
        Unable: It cannot run by shapes alone.
    """
    detector = build_detector(profile.model, rig=profile.data.rig)
    refuse_unable(detector, ability="shapes")
    return detector, scene_of(profile)


def mounts_of(rig: RigProfile) -> tuple[Mount, ...]:
    """How a rig's cameras stand; none where they are nuScenes' and nothing else is stated."""
    if rig.mounts:
        pairs = zip(rig.cameras, rig.mounts, strict=True)
        return tuple(looking(channel, **dict(mount)) for channel, mount in pairs)
    return () if rig.cameras == NUSCENES_RIG.cameras else evenly_around(rig.cameras)


def vehicle_of(rig: RigProfile) -> Vehicle:
    """The vehicle of synthetic scenes of a rig."""
    things = tuple(Thing(row.synthetic or row.name, row.categories, row.moving, row.still) for row in rig.classes)
    usual = rig.classes == NUSCENES_RIG.classes
    return Vehicle(
        mounts=mounts_of(rig) or NUSCENES_MOUNTS,
        lidar=rig.lidar,
        things=() if usual else things,
        attributes=ATTRIBUTES if set(rig.attributes) == set(ATTRIBUTES) else rig.attributes,
        tables=rig.tables,
    )
