"""What is read of nuScenes' tables: which cameras in which order, which categories are which class, whose frame."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from nuscenes.eval.detection.constants import ATTRIBUTE_NAMES
from nuscenes.eval.detection.utils import category_to_detection_name
from nuscenes.utils.color_map import get_colormap

from qdbev.data.nuscenes.tables import TABLES

Frame = Literal["lidar", "vehicle"]


@dataclass(frozen=True)
class Layout:
    """Of one data set."""

    cameras: tuple[str, ...]
    """Channels in the order in which detectors see them."""
    classes: tuple[str, ...]
    """Names in the order of labels."""
    categories: tuple[tuple[str, str], ...]
    """(name in the table ``category``, class); annotations of other categories are left out."""
    attributes: tuple[str, ...] = tuple(ATTRIBUTE_NAMES)
    """What an annotation may say of a box."""
    lidar: str | None = "LIDAR_TOP"
    """Channel of the LiDAR; None where there is none."""
    tables: tuple[str, ...] = TABLES
    """Those that are there."""
    frame: Frame = "lidar"
    """Whose frame boxes are in: the LiDAR's, or the vehicle's, seen from where nuScenes has its LiDAR."""

    @cached_property
    def class_of(self) -> dict[str, str]:
        """Class by the category."""
        return dict(self.categories)

    @property
    def clock(self) -> str:
        """The sensor at whose time the vehicle's place is taken."""
        return self.lidar or self.cameras[0]

    @property
    def sensors(self) -> tuple[str, ...]:
        """Channels that are read of every key frame."""
        return self.cameras if self.lidar is None else (*self.cameras, self.lidar)


CAMERAS = ("CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_FRONT_LEFT", "CAM_BACK", "CAM_BACK_LEFT", "CAM_BACK_RIGHT")
CLASSES = (
    "car", "truck", "construction_vehicle", "bus", "trailer",
    "barrier", "motorcycle", "bicycle", "pedestrian", "traffic_cone",
)  # fmt: skip
NUSCENES = Layout(
    cameras=CAMERAS,
    classes=CLASSES,
    categories=tuple(
        (category, name)
        for name in CLASSES
        for category in sorted(get_colormap())
        if category_to_detection_name(category) == name
    ),
)
"""nuScenes' own; categories as the devkit maps them."""
