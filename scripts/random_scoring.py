"""Random nuScenes tables and a random submission on them, to score: no images, no sense, every rule of the format.

What the devkit's rules turn on is drawn often: equal confidences and distances, objects seen once (no velocity),
without attribute or without points, beyond their range, inside bicycle racks; samples and classes without any box.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

VERSION = "v1.0-trainval"
VEHICLE = np.array([400.0, 1100.0])  # where it stands, nearly
SENSORS = ("LIDAR_TOP", "CAM_FRONT")
CATEGORIES = {
    "vehicle.car": "vehicle.moving", "vehicle.truck": "vehicle.parked", "vehicle.bus.rigid": "vehicle.stopped",
    "vehicle.trailer": "vehicle.parked", "vehicle.construction": "vehicle.moving",
    "human.pedestrian.adult": "pedestrian.moving", "vehicle.motorcycle": "cycle.with_rider",
    "vehicle.bicycle": "cycle.without_rider", "movable_object.trafficcone": "", "movable_object.barrier": "",
    "static_object.bicycle_rack": "", "animal": "",
}  # fmt: skip
NAMES = ("car", "truck", "bus", "trailer", "construction_vehicle", "pedestrian", "motorcycle", "bicycle",
         "traffic_cone", "barrier")  # fmt: skip
_SHARES = np.array([0.4, 0.08, 0.02, 0.03, 0.02, 0.2, 0.03, 0.04, 0.07, 0.07, 0.02, 0.02])
_ATTRIBUTES = sorted({name for name in CATEGORIES.values() if name})
Row = dict[str, Any]


@dataclass(frozen=True)
class World:
    """How much is drawn."""

    scenes: int
    samples: int
    """Of a scene."""
    objects: int
    """In a scene."""
    boxes: int
    """Predicted in a sample."""
    grid_m: float = 0.0
    """Places are multiples of this, so that distances tie; 0 draws real numbers."""
    levels: int = 0
    """Confidences are multiples of 1 / levels; 0 draws real numbers."""
    seen: float = 0.8
    """Chance of an object to be there in a sample of its scene."""
    spread_m: float = 35.0
    """Half the width of the square around the vehicle that objects lie in; ranges end at 30 to 50 m."""
    sweeps: int = 0
    """Sensor files without a sample between two samples."""


def write_tables(root: Path, *, world: World, seed: int) -> list[str]:
    """Write the thirteen tables below ``root``, and return the tokens of the samples."""
    rng = np.random.default_rng([seed, 1])
    folder = root / VERSION
    folder.mkdir(parents=True)
    (root / "map.png").touch()
    sensed, seen = _sensor_rows(world, rng=rng), _object_rows(world, rng=rng)
    tables: dict[str, Any] = {
        "category": [{"token": f"c-{name}", "name": name} for name in CATEGORIES],
        "attribute": [{"token": f"a-{name}", "name": name} for name in _ATTRIBUTES],
        "visibility": [{"token": "1", "level": "v0-40"}],
        "sensor": [{"token": f"s-{name}", "channel": name, "modality": name[:3].lower()} for name in SENSORS],
        "calibrated_sensor": [
            {"token": f"k-{name}", "sensor_token": f"s-{name}", "translation": [0, 0, 0], "rotation": [1, 0, 0, 0]}
            for name in SENSORS
        ],
        "log": [{"token": "log"}],
        "map": [{"token": "map", "log_tokens": ["log"], "filename": "map.png"}],
        "scene": [
            {"token": f"scene-{scene}", "name": f"scene-{scene:04d}", "log_token": "log",
             "nbr_samples": world.samples, "first_sample_token": sample_token(scene, 0)}
            for scene in range(world.scenes)
        ],
        "sample": list(_sample_rows(world)),
        **sensed,
        **seen,
    }  # fmt: skip
    for name, rows in tables.items():
        (folder / f"{name}.json").write_text(json.dumps(rows, indent=0))
    return [row["token"] for row in tables["sample"]]


def sample_token(scene: int, sample: int) -> str:
    """Of a sample."""
    return f"{scene:08x}{sample:024x}"


def _sample_rows(world: World) -> Iterator[Row]:
    for scene in range(world.scenes):
        for sample in range(world.samples):
            yield {
                "token": sample_token(scene, sample),
                "timestamp": 1_532_402_927_647_951 + 500_000 * sample + 10**9 * scene,
                "prev": sample_token(scene, sample - 1) if sample else "",
                "next": sample_token(scene, sample + 1) if sample + 1 < world.samples else "",
                "scene_token": f"scene-{scene}",
            }


def _sensor_rows(world: World, *, rng: np.random.Generator) -> dict[str, list[Row]]:
    """Files of the sensors, and where the vehicle was."""
    files, poses = [], []
    for scene in range(world.scenes):
        for sample in range(world.samples):
            for name in SENSORS:
                for sweep in range(world.sweeps + 1):
                    token = f"{name}-{sample_token(scene, sample)}-{sweep}"
                    place = VEHICLE + rng.normal(0.0, 0.3, 2)
                    poses.append({"token": token, "timestamp": 0, "rotation": [1.0, 0.0, 0.0, 0.0],
                                  "translation": _on_grid([*place, 0.0], world=world)})  # fmt: skip
                    files.append({"token": token, "sample_token": sample_token(scene, sample), "ego_pose_token": token,
                                  "calibrated_sensor_token": f"k-{name}", "timestamp": 0, "fileformat": "jpg",
                                  "is_key_frame": sweep == 0, "height": 900, "width": 1600, "prev": "", "next": "",
                                  "filename": f"samples/{name}/n015-2018-07-24-11-22-45__{token}.jpg"})  # fmt: skip
    return {"sample_data": files, "ego_pose": poses}


def _object_rows(world: World, *, rng: np.random.Generator) -> dict[str, list[Row]]:
    """Objects, and their boxes in the samples in which they are seen."""
    instances, annotations = [], []
    for scene in range(world.scenes):
        for number in range(world.objects):
            instance = f"{scene}-{number}"
            category = str(rng.choice(list(CATEGORIES), p=_SHARES))
            instances.append({"token": instance, "category_token": f"c-{category}"})
            track = [f"{instance}-{sample}" for sample in np.flatnonzero(rng.random(world.samples) < world.seen)]
            place, speed = rng.uniform(-world.spread_m, world.spread_m, 2) + VEHICLE, rng.normal(0.0, 1.0, 2)
            for index, token in enumerate(track):
                annotations.append(
                    {
                        "token": token,
                        "sample_token": sample_token(scene, int(token.split("-")[2])),
                        "instance_token": instance,
                        "visibility_token": "1",
                        "attribute_tokens": _attribute_tokens(category, rng=rng),
                        **_shape(place + index * speed, size=_size(category), world=world, rng=rng),
                        "prev": track[index - 1] if index else "",
                        "next": track[index + 1] if index + 1 < len(track) else "",
                        "num_lidar_pts": int(rng.integers(0, 4)),
                        "num_radar_pts": int(rng.integers(0, 2)),
                    }
                )
    return {"instance": instances, "sample_annotation": annotations}


def _attribute_tokens(category: str, *, rng: np.random.Generator) -> list[str]:
    name = CATEGORIES[category]
    return [f"a-{name}"] if name and rng.random() < 0.9 else []


def _size(category: str) -> list[float]:
    return [12.0, 12.0, 3.0] if category == "static_object.bicycle_rack" else [1.9, 4.6, 1.7]


def _shape(place: Any, *, size: list[float], world: World, rng: np.random.Generator) -> Row:
    yaw = rng.uniform(-np.pi, np.pi)
    return {
        "translation": _on_grid([*place, 1.0], world=world),
        "size": (np.array(size) * rng.uniform(0.8, 1.2, 3)).tolist(),
        "rotation": [float(np.cos(yaw / 2)), 0.0, 0.0, float(np.sin(yaw / 2))],
    }


def _on_grid(place: Any, *, world: World) -> list[float]:
    return (np.round(np.asarray(place) / world.grid_m) * world.grid_m if world.grid_m else np.asarray(place)).tolist()


def write_submission(path: Path, *, root: Path, world: World, seed: int, share: float = 1.0) -> None:
    """Write a submission on the first scenes: a few boxes around each annotated one, the rest anywhere near.

    Args:
        path: Of the file.
        root: Of the tables.
        world: As they were drawn; fewer scenes than in the tables may be scored.
        seed: Decides the boxes.
        share: Chance of a sample to have any.
    """
    rng = np.random.default_rng([seed, 2])
    folder = root / VERSION
    annotated: dict[str, list[Row]] = {row["token"]: [] for row in _sample_rows(world)}
    for row in json.loads((folder / "sample_annotation.json").read_text()):
        if row["sample_token"] in annotated:
            annotated[row["sample_token"]].append(row)
    categories = {row["token"]: row["category_token"][2:] for row in json.loads((folder / "instance.json").read_text())}
    with path.open("w") as stream:
        stream.write('{"meta": {"use_camera": true}, "results": {')
        for index, (token, rows) in enumerate(annotated.items()):
            boxes = _predicted(token, rows=rows, categories=categories, world=world, rng=rng)
            kept = boxes if rng.random() < share else []
            stream.write(f'{", " if index else ""}"{token}": {json.dumps(kept)}')
        stream.write("}}")


def _predicted(
    sample: str, *, rows: list[Row], categories: dict[str, str], world: World, rng: np.random.Generator
) -> list[Row]:
    named = [(row, _NAME_OF.get(categories[row["instance_token"]])) for row in rows]
    known = [(row, name) for row, name in named if name]
    centre = rng.uniform(-world.spread_m, world.spread_m, (world.boxes, 2)) + VEHICLE
    names = [str(name) for name in rng.choice(NAMES, world.boxes)]
    near = min(3 * len(known), world.boxes)
    for place in range(near):
        row, names[place] = known[place % len(known)]
        centre[place] = np.array(row["translation"][:2]) + rng.normal(0.0, 1.0, 2)
    scores = rng.random(world.boxes) * np.where(np.arange(world.boxes) < near, 1.0, 0.5)
    if world.levels:
        scores = np.ceil(scores * world.levels) / world.levels
    return [
        {
            "sample_token": sample,
            **_shape(centre[place], size=[1.9, 4.6, 1.7], world=world, rng=rng),
            "velocity": rng.normal(0.0, 1.0, 2).tolist(),
            "detection_name": name,
            "detection_score": float(scores[place]),
            "attribute_name": _ATTRIBUTE_OF[name] if rng.random() < 0.7 else "",
        }
        for place, name in enumerate(names)
    ]


_NAME_OF = dict(zip(CATEGORIES, NAMES, strict=False))
_ATTRIBUTE_OF = dict(zip(NAMES, CATEGORIES.values(), strict=False))
