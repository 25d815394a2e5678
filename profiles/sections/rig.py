"""The rig: cameras in their order, the frame of boxes, classes with ranges and attributes; nuScenes' unless stated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from profiles.document import NAME, Document

MOST_CAMERAS, MOST_CLASSES = 32, 256
Name = Annotated[str, Field(pattern=NAME, max_length=64)]
Thing = Literal[
    "car", "truck", "construction_vehicle", "bus", "trailer", "barrier", "motorcycle", "bicycle", "pedestrian",
    "traffic_cone", "animal", "traffic_sign",
]  # fmt: skip
_VEHICLE = ("vehicle.moving", "vehicle.parked")
_CYCLE = ("cycle.with_rider", "cycle.without_rider")


class ClassProfile(Document):
    """One class of objects, and how it is scored."""

    name: Name
    """Name in tables and submissions."""
    categories: tuple[str, ...] = Field(min_length=1)
    """Names in the table category whose annotations are of this class."""
    range_m: float = Field(gt=0, le=1000)
    """From the ego vehicle; no box beyond it counts."""
    moving: str = ""
    """Attribute of a predicted box that is faster than 0.2 m/s; empty: none."""
    still: str = ""
    """Attribute of the others."""
    without: tuple[Literal["orientation", "velocity", "attribute"], ...] = ()
    """Errors that are not asked of it, and do not enter the means."""
    half_turn: bool = False
    """Front and back are alike, so that a heading is right up to half a turn."""
    synthetic: Thing | None = None
    """What of the synthetic scenes is of this class; null: what has its name, if anything."""


def _of(
    name: str, range_m: float, attributes: tuple[str, str], categories: tuple[str, ...], **options: Any
) -> ClassProfile:
    moving, still = attributes
    return ClassProfile(name=name, range_m=range_m, moving=moving, still=still, categories=categories, **options)


_NONE = ("", "")
_PEDESTRIANS = tuple(f"human.pedestrian.{kind}" for kind in ("adult", "child", "construction_worker", "police_officer"))
NUSCENES_CLASSES = (
    _of("car", 50, _VEHICLE, ("vehicle.car",)),
    _of("truck", 50, _VEHICLE, ("vehicle.truck",)),
    _of("construction_vehicle", 50, _VEHICLE, ("vehicle.construction",)),
    _of("bus", 50, ("vehicle.moving", "vehicle.stopped"), ("vehicle.bus.bendy", "vehicle.bus.rigid")),
    _of("trailer", 50, _VEHICLE, ("vehicle.trailer",)),
    _of("barrier", 30, _NONE, ("movable_object.barrier",), without=("velocity", "attribute"), half_turn=True),
    _of("motorcycle", 40, _CYCLE, ("vehicle.motorcycle",)),
    _of("bicycle", 40, _CYCLE, ("vehicle.bicycle",)),
    _of("pedestrian", 40, ("pedestrian.moving", "pedestrian.standing"), _PEDESTRIANS),
    _of(
        "traffic_cone",
        30,
        _NONE,
        ("movable_object.trafficcone",),
        without=("orientation", "velocity", "attribute"),
    ),
)
"""nuScenes' ten classes with the ranges of detection_cvpr_2019."""
_NUSCENES_NAMES = tuple(row.name for row in NUSCENES_CLASSES)
_NUSCENES_GROUPS = (
    ("car",),
    ("truck", "construction_vehicle"),
    ("bus", "trailer"),
    ("barrier",),
    ("motorcycle", "bicycle"),
    ("pedestrian", "traffic_cone"),
)


class MountProfile(Document):
    """How one camera stands on the vehicle, for synthetic scenes and for costs that are counted without data."""

    position_m: tuple[float, float, float] = (0.0, 0.0, 1.6)
    """x ahead, y to the left, z up, from the vehicle's origin on the ground."""
    heading_degrees: float = Field(default=0.0, ge=-360, le=360)
    """0 looks ahead, 90 to the left."""
    tilt_degrees: float = Field(default=0.0, ge=-80, le=80)
    """How far it looks down."""
    view_degrees: float = Field(default=70.0, ge=10, le=150)
    """Angle between the left and the right edge of its image."""


class RigProfile(Document):
    """What the data set's vehicle has, and what is looked for."""

    name: Name = "nuscenes"
    """In tables and messages."""
    cameras: tuple[Name, ...] = Field(
        default=("CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_FRONT_LEFT", "CAM_BACK", "CAM_BACK_LEFT", "CAM_BACK_RIGHT"),
        min_length=1,
        max_length=MOST_CAMERAS,
    )
    """Channels in the order in which detectors see them."""
    mounts: tuple[MountProfile, ...] = Field(default=(), max_length=MOST_CAMERAS)
    """How cameras stand, for synthetic scenes and costs; []: as nuScenes' where cameras are its, else evenly around."""
    lidar: Name | None = "LIDAR_TOP"
    """Channel of the LiDAR, at whose time a key frame is; null where there is none: the first camera's time counts."""
    frame: Literal["lidar", "vehicle"] = "lidar"
    """Whose frame boxes are in: lidar, or vehicle: the vehicle's, seen from where nuScenes has its LiDAR."""
    attributes: tuple[str, ...] = (
        "pedestrian.moving",
        "pedestrian.sitting_lying_down",
        "pedestrian.standing",
        "cycle.with_rider",
        "cycle.without_rider",
        "vehicle.moving",
        "vehicle.parked",
        "vehicle.stopped",
    )
    """What annotations may say of a box."""
    classes: tuple[ClassProfile, ...] = Field(default=NUSCENES_CLASSES, min_length=1, max_length=MOST_CLASSES)
    """In the order of a detector's labels."""
    groups: tuple[tuple[str, ...], ...] | None = None
    """Classes of a size, for one map of a head of BEVDet or BEVDepth; null: nuScenes' six, else each class alone."""
    max_boxes: int = Field(default=500, ge=1, le=10_000)
    """Boxes of a sample that a submission may hold."""
    tables: Literal["nuscenes", "truckscenes"] = "nuscenes"
    """Which tables there are: nuScenes' thirteen, or TruckScenes', without logs and maps."""
    scored_as: Name = "detection_cvpr_2019"
    """What scores are called: the configuration of the devkit they are comparable with."""

    by_name: ClassVar[bool] = True
    """A name alone stands for the built-in rig of that name."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes in the order of labels."""
        return tuple(row.name for row in self.classes)

    @property
    def tasks(self) -> tuple[tuple[int, ...], ...]:
        """The groups by class index."""
        names = self.class_names
        groups = self.groups
        if groups is None:
            groups = _NUSCENES_GROUPS if names == _NUSCENES_NAMES else tuple((name,) for name in names)
        return tuple(tuple(names.index(name) for name in group) for group in groups)

    def differs(self, other: RigProfile) -> str:
        """In what a detector of one rig does not fit the other, in words; empty where it does."""
        if len(self.cameras) != len(other.cameras):
            return f"{len(self.cameras)} cameras, not {len(other.cameras)}"
        if self.class_names != other.class_names:
            return f"{len(self.classes)} classes ({', '.join(self.class_names)}), not the same {len(other.classes)}"
        return ""

    @model_validator(mode="after")
    def _sound(self) -> RigProfile:
        for problem in self._problems():
            raise ValueError(problem)
        return self

    def _problems(self) -> Iterator[str]:
        categories = [category for row in self.classes for category in row.categories]
        for noun, names in (
            ("camera", self.cameras),
            ("class", self.class_names),
            ("category", categories),
        ):
            if twice := [name for name, count in Counter(names).items() if count > 1]:
                yield f"the {noun} {twice[0]} stands twice"
        for row in self.classes:
            for attribute in (row.moving, row.still):
                if attribute and attribute not in self.attributes:
                    yield f"class {row.name} takes the attribute {attribute}, which attributes does not list"
        if self.mounts and len(self.mounts) != len(self.cameras):
            yield f"{len(self.cameras)} cameras have {len(self.mounts)} mounts; state one for each, or none"
        if self.lidar in self.cameras:
            yield f"{self.lidar} is a camera and the LiDAR"
        if self.lidar is None and self.frame == "lidar":
            yield "frame is lidar, and lidar is null: state frame: vehicle"
        grouped = Counter(name for group in self.groups or () for name in group)
        if self.groups is not None and grouped != Counter(self.class_names):
            yield "groups must hold each class once"


NUSCENES_RIG = RigProfile()
"""nuScenes' own."""


def sealed_rig(profile: Mapping[str, Any]) -> RigProfile:
    """The rig of a manifest's profile: nuScenes' where it states none."""
    data = profile.get("data")
    return RigProfile.model_validate((data if isinstance(data, dict) else {}).get("rig", {}))
