"""nuScenes tables -> one plain record per key frame, in the field names of mmdet3d 1.x infos.

The record ("sample") of a key frame:
    token, scene (name), scene_token, index_in_scene, timestamp (microseconds),
    ego2global (4, 4), lidar2ego (4, 4) of LIDAR_TOP, can_bus (18,) absolute (``qdbev.data.nuscenes.motion``),
    lidar_path (empty where boxes are in another frame),
    images: {camera: {img_path, width, height, cam2img (3, 3), lidar2cam (4, 4), timestamp, size_bytes}}
        paths are relative to the root; ``lidar2cam`` compensates the ego motion between the two exposures,
    instances: columns over the M annotations of the layout's classes:
        bbox_3d (M, 7) in the LIDAR_TOP frame (x right, y forward, z up): GRAVITY centre, length, width, height, yaw
        counter-clockwise from x (exactly as mmdet3d 1.x infos; its box class turns them into bottom centres),
        velocity (M, 2) m/s in the lidar frame, NaN where nuScenes has none, bbox_label_3d (M,) index in its classes,
        num_lidar_pts, num_radar_pts (M,), bbox_3d_isvalid (M,) lidar plus radar points above zero, attribute [M].
Where the layout's frame is the vehicle's, LIDAR_TOP stands for a place on it: where nuScenes has its LiDAR.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from nuscenes import NuScenes
from tqdm import tqdm

from qdbev.data.geometry import Array, invert_rigid, rigid, rotation_matrices
from qdbev.data.nuscenes.layout import NUSCENES, Layout
from qdbev.data.nuscenes.motion import can_bus_vector, message_motion, pose_messages, pose_motion
from qdbev.data.nuscenes.sample_cache import cache_key, load_samples, save_samples
from qdbev.data.nuscenes.tables import available_scenes, choose_scenes, open_tables, read_tables

Sample = dict[str, Any]
_TURN, _PLACE_M = (0.5**0.5, 0.0, 0.0, -(0.5**0.5)), (0.94, 0.0, 1.84)  # near nuScenes' LiDAR: x right, y ahead


def read_samples(
    root: Path | str,
    *,
    version: str,
    scenes: Sequence[str] | None = None,
    cache: Path | None = None,
    tables: Callable[[], NuScenes] | None = None,
    layout: Layout = NUSCENES,
    progress: bool = False,
) -> list[Sample]:
    """Read the key frames of some scenes, scene after scene, each in the order of time.

    Args:
        root: Folder that holds ``version``, ``samples`` and, where present, ``can_bus``.
        version: Name of the table folder, such as v1.0-trainval.
        scenes: Scene names; all scenes of the tables where None.
        cache: Folder for the parsed records (data only, keyed by the digest of what they were made from).
        tables: Gives the opened tables, where they are needed; None opens them.
        layout: Which cameras and classes are read.
        progress: Show a bar over scenes.

    Raises:
        ValueError: missing version, table, scene or camera image, each in one sentence with what to do.
    """
    root = Path(root)
    names = choose_scenes(available_scenes(root, version=version), wanted=scenes)
    path = None
    if cache is not None:
        path = Path(cache) / f"samples-{cache_key(root, version=version, scenes=names, layout=layout)}.npz"
    samples = None if path is None else load_samples(path)
    if samples is None:
        rows = None if tables else read_tables(root, version=version, tables=layout.tables)
        opened = tables() if tables else open_tables(root, version=version, rows=rows)
        samples = list(_parse(opened, root=root, names=names, layout=layout, progress=progress))
        if path is not None:
            save_samples(samples, path=path)
    _stat_images(samples, root=root)
    return samples


def _parse(tables: NuScenes, *, root: Path, names: Sequence[str], layout: Layout, progress: bool) -> Iterator[Sample]:
    by_name = {record["name"]: record for record in tables.scene}
    for name in tqdm(names, desc="reading scenes", disable=not progress):
        try:
            yield from _scene_samples(tables, scene=by_name[name], root=root, layout=layout)
        except KeyError as error:
            raise ValueError(
                f"scene {name} refers to {error}, which its tables do not hold; unpack or generate the data set again."
            ) from error


def _scene_samples(tables: NuScenes, *, scene: dict[str, Any], root: Path, layout: Layout) -> list[Sample]:
    """All records of one scene; the motion part of can_bus needs the scene as a whole."""
    token, chain = scene["first_sample_token"], []
    while token:
        chain.append(tables.get("sample", token))
        token = chain[-1]["next"]
    samples = [
        _sample(tables, record=record, scene=scene, index=index, layout=layout) for index, record in enumerate(chain)
    ]
    if not samples:
        return []
    messages = pose_messages(root, scene=scene["name"])
    times = [sample["timestamp"] for sample in samples]
    if messages is None:
        motions = pose_motion(np.stack([sample["ego2global"] for sample in samples]), timestamps_us=times)
    else:
        motions = np.stack([message_motion(messages, timestamp_us=time) for time in times])
    for sample, motion in zip(samples, motions, strict=True):
        pose = sample.pop("pose")
        sample["can_bus"] = can_bus_vector(pose["translation"], rotation=pose["rotation"], motion=motion)
    return samples


def _sample(tables: NuScenes, *, record: dict[str, Any], scene: dict[str, Any], index: int, layout: Layout) -> Sample:
    clock = tables.get("sample_data", record["data"][layout.clock])
    pose = tables.get("ego_pose", clock["ego_pose_token"])
    ego2global, lidar2ego = _sensor_poses(tables, data=clock)
    if layout.frame == "vehicle":
        lidar2ego = rigid(_TURN, translation=_PLACE_M)
    lidar2global = ego2global @ lidar2ego
    return {
        "token": record["token"],
        "scene": scene["name"],
        "scene_token": scene["token"],
        "index_in_scene": index,
        "timestamp": int(record["timestamp"]),
        "pose": pose,
        "ego2global": ego2global,
        "lidar2ego": lidar2ego,
        "lidar_path": clock["filename"] if layout.frame == "lidar" else "",
        "images": {
            camera: _camera(tables, token=record["data"][camera], lidar2global=lidar2global)
            for camera in layout.cameras
        },
        "instances": _instances(tables, tokens=record["anns"], lidar2global=lidar2global, layout=layout),
    }


def _sensor_poses(tables: NuScenes, *, data: dict[str, Any]) -> tuple[Array, Array]:
    pose = tables.get("ego_pose", data["ego_pose_token"])
    calibration = tables.get("calibrated_sensor", data["calibrated_sensor_token"])
    return (
        rigid(pose["rotation"], translation=pose["translation"]),
        rigid(calibration["rotation"], translation=calibration["translation"]),
    )


def _camera(tables: NuScenes, *, token: str, lidar2global: Array) -> dict[str, Any]:
    data = tables.get("sample_data", token)
    ego2global, cam2ego = _sensor_poses(tables, data=data)
    calibration = tables.get("calibrated_sensor", data["calibrated_sensor_token"])
    return {
        "img_path": data["filename"],
        "width": int(data["width"]),
        "height": int(data["height"]),
        "timestamp": int(data["timestamp"]),
        "cam2img": np.asarray(calibration["camera_intrinsic"], dtype=np.float64),
        "lidar2cam": invert_rigid(ego2global @ cam2ego) @ lidar2global,
    }


def _instances(tables: NuScenes, *, tokens: Sequence[str], lidar2global: Array, layout: Layout) -> dict[str, Any]:
    """Columns of the annotations of the detection classes, in the lidar frame."""
    named = [(record, layout.class_of.get(record["category_name"])) for record in
             (tables.get("sample_annotation", token) for token in tokens)]  # fmt: skip
    kept = [(record, name) for record, name in named if name is not None]
    records = [record for record, _ in kept]
    centres = np.array([record["translation"] for record in records], dtype=np.float64).reshape(-1, 3)
    sizes = np.array([record["size"] for record in records], dtype=np.float64).reshape(-1, 3)
    turns = rotation_matrices(np.array([record["rotation"] for record in records], dtype=np.float64).reshape(-1, 4))
    velocity = np.array([tables.box_velocity(record["token"]) for record in records], dtype=np.float64).reshape(-1, 3)
    velocity[:, 2] = 0.0  # mmdet3d and the metric know the horizontal part only
    global2lidar = invert_rigid(lidar2global)
    turns = global2lidar[:3, :3] @ turns
    yaw = np.arctan2(-turns[:, 0, 1], turns[:, 0, 0])  # pyquaternion's yaw, which mmdet3d infos carry
    centres = centres @ global2lidar[:3, :3].T + global2lidar[:3, 3]
    lidar_points = np.array([record["num_lidar_pts"] for record in records], dtype=np.int64)
    radar_points = np.array([record["num_radar_pts"] for record in records], dtype=np.int64)
    return {
        "bbox_3d": np.concatenate([centres, sizes[:, [1, 0, 2]], yaw[:, None]], axis=1),
        "velocity": (velocity @ global2lidar[:3, :3].T)[:, :2],
        "bbox_label_3d": np.array([layout.classes.index(name) for _, name in kept], dtype=np.int64),
        "num_lidar_pts": lidar_points,
        "num_radar_pts": radar_points,
        "bbox_3d_isvalid": lidar_points + radar_points > 0,
        "attribute": [_attribute(tables, tokens=record["attribute_tokens"]) for record in records],
    }


def _attribute(tables: NuScenes, *, tokens: Sequence[str]) -> str:
    return str(tables.get("attribute", tokens[0])["name"]) if tokens else ""


def _stat_images(samples: Sequence[Sample], *, root: Path) -> None:
    """Write the present size of every camera file into its record; ValueError counts those that are missing."""
    missing: list[tuple[str, Path]] = []
    for sample in samples:
        for camera, image in sample["images"].items():
            path = root / image["img_path"]
            try:
                image["size_bytes"] = path.stat().st_size
            except OSError:
                missing.append((camera, path))
    if missing:
        counts = Counter(camera for camera, _ in missing)
        total = sum(len(sample["images"]) for sample in samples)
        raise ValueError(
            f"{len(missing)} of {total} camera images are missing in {root} "
            f"({', '.join(f'{camera} {count}' for camera, count in counts.items())}), first {missing[0][1]}; "
            "unpack the samples/ archives of this version again, or generate the synthetic data set again."
        )
