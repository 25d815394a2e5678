"""A nuScenes tree written by hand: two train scenes and one val scene of three key frames, six cameras of 32x18."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

CAMERAS = ("CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_FRONT_LEFT", "CAM_BACK", "CAM_BACK_LEFT", "CAM_BACK_RIGHT")
CAMERA_YAW_DEG = (0, -55, 55, 180, 110, -110)
SCENES = ("scene-0001", "scene-0002", "scene-0003")  # train, train, val
FRAMES = 3
SPEED_MPS = 4.0
INTRINSIC = [[20.0, 0.0, 16.0], [0.0, 20.0, 9.0], [0.0, 0.0, 1.0]]
START_US = 1_000_000
TABLES = (
    "attribute", "calibrated_sensor", "category", "ego_pose", "instance", "log", "map",
    "sample", "sample_annotation", "sample_data", "scene", "sensor", "visibility",
)  # fmt: skip


def yaw_quaternion(degrees: float) -> list[float]:
    half = math.radians(degrees) / 2
    return [math.cos(half), 0.0, 0.0, math.sin(half)]


def camera_quaternion(yaw_deg: float) -> list[float]:
    """Optical axis forward (z), x right, y down, turned by the yaw about the vertical."""
    half = math.radians(yaw_deg) / 2
    a, d = math.cos(half), math.sin(half)
    w, x, y, z = 0.5, -0.5, 0.5, -0.5
    return [a * w - d * z, a * x - d * y, a * y + d * x, a * z + d * w]


class TreeWriter:
    """Tables as lists of records; scene s heads s * 90 degrees and drives straight on from (100 s, 0)."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.tables: dict[str, list[dict[str, Any]]] = {name: [] for name in TABLES}

    def write(self) -> None:
        self._fixed()
        for number, scene in enumerate(SCENES):
            self._scene(number, scene)
        folder = self.root / "v1.0-trainval"
        folder.mkdir(parents=True)
        for name, records in self.tables.items():
            (folder / f"{name}.json").write_text(json.dumps(records))

    def _fixed(self) -> None:
        (self.root / "maps").mkdir(parents=True)
        cv2.imwrite(str(self.root / "maps/stub.png"), np.zeros((4, 4), np.uint8))
        logs = {"token": "log", "logfile": "l", "vehicle": "v", "date_captured": "2020-01-01", "location": "l"}
        self.tables["log"].append(logs)
        self.tables["map"].append(
            {"token": "map", "category": "semantic_prior", "filename": "maps/stub.png", "log_tokens": ["log"]}
        )
        for token, name in (("moving", "vehicle.moving"), ("parked", "vehicle.parked")):
            self.tables["attribute"].append({"token": token, "name": name, "description": ""})
        for token, name in (("car", "vehicle.car"), ("cone", "movable_object.trafficcone"), ("dog", "animal")):
            self.tables["category"].append({"token": token, "name": name, "description": ""})
        self.tables["visibility"].append({"token": "4", "level": "v80-100", "description": ""})
        for channel, yaw in zip(CAMERAS, CAMERA_YAW_DEG, strict=True):
            self.tables["sensor"].append({"token": channel, "channel": channel, "modality": "camera"})
            self.tables["calibrated_sensor"].append(
                {"token": channel, "sensor_token": channel, "translation": [1.0, 0.0, 1.5],
                 "rotation": camera_quaternion(yaw), "camera_intrinsic": INTRINSIC}
            )  # fmt: skip
        self.tables["sensor"].append({"token": "LIDAR_TOP", "channel": "LIDAR_TOP", "modality": "lidar"})
        self.tables["calibrated_sensor"].append(
            {"token": "LIDAR_TOP", "sensor_token": "LIDAR_TOP", "translation": [0.5, 0.0, 2.0],
             "rotation": yaw_quaternion(-90), "camera_intrinsic": []}
        )  # fmt: skip

    def _scene(self, number: int, scene: str) -> None:
        tokens = [f"{scene}-{frame}" for frame in range(FRAMES)]
        self.tables["scene"].append(
            {"token": scene + "-token", "log_token": "log", "nbr_samples": FRAMES, "name": scene, "description": "",
             "first_sample_token": tokens[0], "last_sample_token": tokens[-1]}
        )  # fmt: skip
        objects = (
            # name, category, metres forward and left of the scene's start, speed, attribute, points
            ("car", "car", 20.0, 3.0, 2.0, "moving", 7),
            ("hidden", "car", 25.0, -3.0, 0.0, "parked", 0),
            ("cone", "cone", 10.0, -2.0, 0.0, None, 3),
            ("far", "car", 400.0, 0.0, 0.0, "parked", 3),
            ("dog", "dog", 8.0, 1.0, 0.0, None, 3),
        )
        for name, category, *_ in objects:
            own = [f"{scene}-{name}-{frame}" for frame in range(FRAMES)]
            self.tables["instance"].append(
                {"token": f"{scene}-{name}", "category_token": category, "nbr_annotations": FRAMES,
                 "first_annotation_token": own[0], "last_annotation_token": own[-1]}
            )  # fmt: skip
        for frame, token in enumerate(tokens):
            self._frame(number, scene=scene, frame=frame, token=token, tokens=tokens)
            for entry in objects:
                self._annotation(number, scene=scene, frame=frame, sample=token, entry=entry)

    def _frame(self, number: int, *, scene: str, frame: int, token: str, tokens: list[str]) -> None:
        time = START_US + 500_000 * frame
        self.tables["sample"].append(
            {"token": token, "timestamp": time, "scene_token": scene + "-token",
             "prev": tokens[frame - 1] if frame else "", "next": tokens[frame + 1] if frame + 1 < FRAMES else ""}
        )  # fmt: skip
        for place, channel in enumerate((*CAMERAS, "LIDAR_TOP")):
            early_us = 10_000 * (len(CAMERAS) - place)  # cameras expose before the lidar
            metres = SPEED_MPS * (0.5 * frame - early_us * 1e-6)
            heading = math.radians(90 * number)
            name = f"{token}-{channel}"
            self.tables["ego_pose"].append(
                {"token": name, "timestamp": time - early_us, "rotation": yaw_quaternion(90 * number),
                 "translation": [100 * number + metres * math.cos(heading), metres * math.sin(heading), 0.0]}
            )  # fmt: skip
            kind = "pcd.bin" if channel == "LIDAR_TOP" else "jpg"
            path = f"samples/{channel}/{name}.{kind}"
            self.tables["sample_data"].append(
                {"token": name, "sample_token": token, "ego_pose_token": name, "calibrated_sensor_token": channel,
                 "timestamp": time - early_us, "fileformat": kind.split(".")[0], "is_key_frame": True,
                 "height": 18 if kind == "jpg" else 0, "width": 32 if kind == "jpg" else 0, "filename": path,
                 "prev": "", "next": ""}
            )  # fmt: skip
            (self.root / path).parent.mkdir(parents=True, exist_ok=True)
            if kind == "jpg":
                pixels = np.random.default_rng([number, frame, place]).integers(60, 190, (18, 32, 3), dtype=np.uint8)
                cv2.imwrite(str(self.root / path), pixels)

    def _annotation(self, number: int, *, scene: str, frame: int, sample: str, entry: tuple[Any, ...]) -> None:
        name, _, forward, left, speed, attribute, points = entry
        heading = math.radians(90 * number)
        forward = forward + speed * 0.5 * frame
        x = 100 * number + forward * math.cos(heading) - left * math.sin(heading)
        y = forward * math.sin(heading) + left * math.cos(heading)
        own = f"{scene}-{name}"
        self.tables["sample_annotation"].append(
            {"token": f"{own}-{frame}", "sample_token": sample, "instance_token": own, "visibility_token": "4",
             "attribute_tokens": [attribute] if attribute else [], "translation": [x, y, 1.0],
             "size": [2.0, 4.0, 1.6], "rotation": yaw_quaternion(90 * number + 30),
             "num_lidar_pts": points, "num_radar_pts": 0,
             "prev": f"{own}-{frame - 1}" if frame else "", "next": f"{own}-{frame + 1}" if frame + 1 < FRAMES else ""}
        )  # fmt: skip


@pytest.fixture(scope="session")
def tiny_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Root of the tree; tests must not change it (copy it first)."""
    root = tmp_path_factory.mktemp("nuscenes-by-hand")
    TreeWriter(root).write()
    return root
