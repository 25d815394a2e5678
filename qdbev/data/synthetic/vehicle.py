"""The vehicle of a tree: its cameras and LiDAR, and how its tables call things; nuScenes' by default."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal

from qdbev.data.mounts import Mount
from qdbev.data.synthetic.sensors.cameras import NUSCENES_MOUNTS
from qdbev.data.synthetic.shapes.catalogue import ATTRIBUTES, CATEGORIES

Tables = Literal["nuscenes", "truckscenes"]
MORE_THINGS = frozenset({"animal", "traffic_sign"})
"""Things that are there where a vehicle's classes ask for them."""
_IN_MOTION = frozenset({"vehicle.moving", "pedestrian.moving", "cycle.with_rider"})
_FIXED = {"traffic_sign": "traffic_sign.pole_mounted"}


@dataclass(frozen=True)
class Thing:
    """One kind of thing in a scene, and how tables other than nuScenes' call it."""

    name: str
    """Such as ``car``: of nuScenes' classes, or of ``MORE_THINGS``."""
    categories: tuple[str, ...]
    """Its category: nuScenes' where that is among them, else the first."""
    moving: str = ""
    """Its attribute in motion, or with a rider, where the tables have none of nuScenes' name."""
    still: str = ""
    """Its attribute otherwise."""


@dataclass(frozen=True)
class Vehicle:
    """What it has."""

    mounts: tuple[Mount, ...] = NUSCENES_MOUNTS
    """Its cameras, in order."""
    lidar: str | None = "LIDAR_TOP"
    """Channel of its LiDAR; without one points are counted all the same, and no file is written."""
    things: tuple[Thing, ...] = ()
    """Those that tables call otherwise; the others are called as in nuScenes."""
    attributes: tuple[str, ...] = ATTRIBUTES
    """What the tables can say of a box."""
    tables: Tables = "nuscenes"
    """nuScenes' thirteen tables, or those of TruckScenes, without logs and maps."""

    @cached_property
    def channels(self) -> tuple[str, ...]:
        """Names of the cameras."""
        return tuple(mount.channel for mount in self.mounts)

    @cached_property
    def sensors(self) -> tuple[str, ...]:
        """Names of all sensors that files are written of."""
        return self.channels if self.lidar is None else (*self.channels, self.lidar)

    @cached_property
    def folders(self) -> tuple[str, ...]:
        """Folders of a tree's files."""
        samples = tuple(f"samples/{name}" for name in self.sensors)
        return ("can_bus", *samples, *(f"sweeps/{channel}" for channel in self.channels))

    @cached_property
    def more_things(self) -> frozenset[str]:
        """Those of ``MORE_THINGS`` that are there."""
        return MORE_THINGS & self._of.keys()

    @cached_property
    def _of(self) -> dict[str, Thing]:
        return {thing.name: thing for thing in self.things}

    @cached_property
    def categories(self) -> tuple[str, ...]:
        """All names of the table ``category``."""
        return tuple(dict.fromkeys((*CATEGORIES, *(name for thing in self.things for name in thing.categories))))

    def category(self, thing: str, *, usual: str) -> str:
        """The category of a thing whose name in nuScenes is ``usual``."""
        names = self._of[thing].categories if thing in self._of else (usual,)
        return usual if usual in names else names[0]

    def attribute(self, thing: str, *, usual: str) -> str:
        """The attribute of a thing, which nuScenes' tables would call ``usual``; empty where these have none such."""
        name, own = _FIXED.get(thing, usual), self._of.get(thing)
        if name in self.attributes or own is None:
            return name if name in self.attributes else ""
        return own.moving if usual in _IN_MOTION else own.still

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; nothing where it is nuScenes'."""
        return {} if self == NUSCENES else {"vehicle": asdict(self)}


NUSCENES = Vehicle()
