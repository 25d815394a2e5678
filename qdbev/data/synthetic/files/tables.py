"""Rows of the thirteen nuScenes tables (schema of nuScenes v1.0): those of one scene, and those that all share."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from qdbev.data.synthetic.files.placing import LOCATIONS
from qdbev.data.synthetic.geometry import Array, yaw_quaternion
from qdbev.data.synthetic.sensors.cameras import Sensor
from qdbev.data.synthetic.shapes.catalogue import VISIBILITY
from qdbev.data.synthetic.tokens import token
from qdbev.data.synthetic.vehicle import Vehicle

Row = dict[str, Any]
SCENE_TABLES = (
    "log",
    "scene",
    "sample",
    "calibrated_sensor",
    "ego_pose",
    "sample_data",
    "instance",
    "sample_annotation",
)
SHARED_TABLES = ("attribute", "category", "sensor", "visibility", "map")
TABLES = SCENE_TABLES + SHARED_TABLES


def shared_token(table: str, name: str) -> str:
    """Token of a row that all trees share."""
    return token("shared", table, name)


def shared_tables(vehicle: Vehicle) -> dict[str, list[Row]]:
    """The tables that say the same in every tree of a vehicle; the map table still lacks its logs."""
    return {
        "attribute": [{"token": shared_token("attribute", n), "name": n, "description": n} for n in vehicle.attributes],
        "category": [
            {"token": shared_token("category", n), "name": n, "description": n, "index": k + 1}
            for k, n in enumerate(vehicle.categories)
        ],
        "sensor": [
            {"token": shared_token("sensor", c), "channel": c, "modality": "lidar" if c == vehicle.lidar else "camera"}
            for c in vehicle.sensors
        ],
        "visibility": [
            {"token": t, "level": level, "description": f"visibility of whole object is {level[1:]} %"}
            for t, level in VISIBILITY
        ],
        "map": [
            {
                "token": shared_token("map", place),
                "category": "semantic_prior",
                "filename": f"maps/{shared_token('map', place)}.png",
                "log_tokens": [],
            }
            for place in LOCATIONS
        ],
    }


def _numbers(values: Array, digits: int = 9) -> list[float]:
    return [round(float(v), digits) for v in values]


@dataclass
class SceneRows:
    """Collects the rows of one scene.

    Attributes:
        seed: Seed of the tree.
        name: Name of the scene.
        rows: Table name to rows.
    """

    seed: int
    name: str
    rows: dict[str, list[Row]] = field(default_factory=lambda: {t: [] for t in SCENE_TABLES})

    def token(self, *role: object) -> str:
        """Token of a row by its role in this scene."""
        return token(self.seed, self.name, *role)

    def add_log(self, *, location: str, date: str) -> str:
        """One log per scene; returns its file name, the stem of all data files."""
        stem = f"synth-{self.seed}-{self.name}"
        row = {"logfile": stem, "vehicle": "synth", "date_captured": date, "location": location}
        self.rows["log"].append({"token": self.token("log"), **row})
        return stem

    def add_scene(self, *, count: int, description: str) -> None:
        """The scene row over samples 0..count-1."""
        self.rows["scene"].append(
            {
                "token": self.token("scene"),
                "log_token": self.token("log"),
                "nbr_samples": count,
                "first_sample_token": self.token("sample", 0),
                "last_sample_token": self.token("sample", count - 1),
                "name": self.name,
                "description": description,
            }
        )

    def add_sample(self, index: int, *, count: int, timestamp: int) -> None:
        """A key frame."""
        self.rows["sample"].append(
            {
                "token": self.token("sample", index),
                "timestamp": timestamp,
                "prev": self.token("sample", index - 1) if index else "",
                "next": self.token("sample", index + 1) if index + 1 < count else "",
                "scene_token": self.token("scene"),
            }
        )

    def add_sensor(self, sensor: Sensor) -> None:
        """The calibration of one sensor."""
        self.rows["calibrated_sensor"].append(
            {
                "token": self.token("calibrated_sensor", sensor.channel),
                "sensor_token": shared_token("sensor", sensor.channel),
                "translation": _numbers(sensor.translation),
                "rotation": _numbers(sensor.quaternion, 12),
                "camera_intrinsic": [] if sensor.intrinsic is None else [_numbers(r) for r in sensor.intrinsic],
            }
        )

    def add_data(
        self,
        channel: str,
        index: int,
        *,
        sample: int,
        key: bool,
        timestamp: int,
        filename: str,
        size: tuple[int, int] | None,
    ) -> None:
        """A file of one sensor; index counts its files in time order, chained to the last one."""
        own = self.token("sample_data", channel, index)
        image = size is not None
        width, height = size or (0, 0)
        before = self.token("sample_data", channel, index - 1) if index else ""
        if before:
            next(r for r in reversed(self.rows["sample_data"]) if r["token"] == before)["next"] = own
        self.rows["sample_data"].append(
            {
                "token": own,
                "sample_token": self.token("sample", sample),
                "ego_pose_token": self.token("ego_pose", channel, index),
                "calibrated_sensor_token": self.token("calibrated_sensor", channel),
                "timestamp": timestamp,
                "fileformat": "jpg" if image else "pcd",
                "is_key_frame": key,
                "height": height,
                "width": width,
                "filename": filename,
                "prev": before,
                "next": "",
            }
        )

    def add_pose(self, channel: str, index: int, *, timestamp: int, pose: Array) -> None:
        """Where the ego was for one file; pose is x, y, yaw on the map."""
        self.rows["ego_pose"].append(
            {
                "token": self.token("ego_pose", channel, index),
                "timestamp": timestamp,
                "rotation": _numbers(yaw_quaternion(pose[2]), 12),
                "translation": [*_numbers(pose[:2]), 0.0],
            }
        )

    def add_annotation(
        self, actor: int, sample: int, *, pose: Array, size_lwh: Array, attribute: str, visibility: str, points: int
    ) -> None:
        """One box; pose is x, y, yaw on the map. Chains are closed by ``add_instances``."""
        length, width, height = size_lwh
        self.rows["sample_annotation"].append(
            {
                "token": self.token("annotation", actor, sample),
                "sample_token": self.token("sample", sample),
                "instance_token": self.token("instance", actor),
                "visibility_token": visibility,
                "attribute_tokens": [shared_token("attribute", attribute)] if attribute else [],
                "translation": _numbers(np.array([*pose[:2], height / 2]), 4),
                "size": _numbers(np.array([width, length, height]), 3),
                "rotation": _numbers(yaw_quaternion(pose[2]), 12),
                "prev": "",
                "next": "",
                "num_lidar_pts": points,
                "num_radar_pts": 0,
            }
        )

    def add_instances(self, categories: dict[str, str]) -> None:
        """Chain the annotations of each instance; categories maps instance tokens to category names."""
        chains: dict[str, list[Row]] = {}
        for row in self.rows["sample_annotation"]:
            chains.setdefault(row["instance_token"], []).append(row)
        for instance, chain in chains.items():
            for a, b in pairwise(chain):
                a["next"], b["prev"] = b["token"], a["token"]
            self.rows["instance"].append(
                {
                    "token": instance,
                    "category_token": shared_token("category", categories[instance]),
                    "nbr_annotations": len(chain),
                    "first_annotation_token": chain[0]["token"],
                    "last_annotation_token": chain[-1]["token"],
                }
            )
