"""One real key frame as a nuScenes of one sample: the devkit loads it, tiny runs through evaluate on it."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyquaternion import Quaternion
from typer.testing import CliRunner

from qdbev.data.nuscenes.layout import CAMERAS
from qdbev.data.nuscenes.records import read_samples
from qdbev.data.synthetic.files.tables import shared_tables, shared_token
from qdbev.data.synthetic.vehicle import NUSCENES
from qdbev_cli.app import app

VERSION, SCENE = "v1.0-mini", "scene-0103"  # a scene of the mini_val split, so that it can be evaluated
CATEGORIES = {
    "car": "vehicle.car",
    "truck": "vehicle.truck",
    "trailer": "vehicle.trailer",
    "bus": "vehicle.bus.rigid",
    "construction_vehicle": "vehicle.construction",
    "bicycle": "vehicle.bicycle",
    "motorcycle": "vehicle.motorcycle",
    "pedestrian": "human.pedestrian.adult",
    "traffic_cone": "movable_object.trafficcone",
    "barrier": "movable_object.barrier",
}
ATTRIBUTES = {"vehicle": "vehicle.parked", "human": "pedestrian.standing"}
Row = dict[str, Any]


@pytest.fixture(scope="module")
def info(shared: Path) -> Row:
    found = sorted((shared / "real-sample").glob("*.pkl"))
    if not found:
        pytest.skip("the real nuScenes key frame (shared/real-sample) is not here")
    with found[0].open("rb") as stream:
        content = pickle.load(stream)  # the reference material's own file; no data of a user
    return content["data_list"][0] | {"folder": found[0].parent, "categories": content["metainfo"]["categories"]}


@pytest.fixture(scope="module")
def root(info: Row, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree: thirteen tables, six images, one sweep."""
    folder = tmp_path_factory.mktemp("one-sample")
    tables = shared_tables(NUSCENES) | _scene_tables(info) | _annotation_tables(info)
    place = tables["map"][0]
    tables["map"] = [place | {"log_tokens": ["log"]}]
    for name, rows in tables.items():
        _write(folder / VERSION / f"{name}.json", json.dumps(rows).encode())
    for row in tables["sample_data"]:
        _write(folder / row["filename"], b"")
        shutil.copyfile(info["folder"] / Path(row["filename"]).name, folder / row["filename"])
    import cv2

    _write(folder / place["filename"], cv2.imencode(".png", np.zeros((8, 8), np.uint8))[1].tobytes())
    return folder


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _pose(matrix: Any) -> Row:
    exact = np.array(matrix)
    left, _, right = np.linalg.svd(exact[:3, :3])  # a rotation to the last digit
    return {"translation": exact[:3, 3].tolist(), "rotation": Quaternion(matrix=left @ right).elements.tolist()}


def _scene_tables(info: Row) -> dict[str, list[Row]]:
    lidar2ego = np.array(info["lidar_points"]["lidar2ego"])
    lidar2global = np.array(info["ego2global"]) @ lidar2ego
    time = round(info["timestamp"] * 1e6)
    lidar_file = f"samples/LIDAR_TOP/{info['lidar_points']['lidar_path']}"
    sensors = [("LIDAR_TOP", lidar2ego, np.array(info["ego2global"]), [], lidar_file, time)]
    for camera in CAMERAS:
        image = info["images"][camera]
        cam2ego = np.array(image["cam2ego"])
        ego2global = lidar2global @ np.linalg.inv(np.array(image["lidar2cam"])) @ np.linalg.inv(cam2ego)
        file = f"samples/{camera}/{image['img_path']}"
        sensors.append((camera, cam2ego, ego2global, image["cam2img"], file, round(image["timestamp"] * 1e6)))
    data, poses, calibrations = [], [], []
    for channel, sensor2ego, ego2global, intrinsic, file, when in sensors:
        image = channel != "LIDAR_TOP"
        calibrations.append(
            {"token": f"{channel} is", "sensor_token": shared_token("sensor", channel), **_pose(sensor2ego)}
            | {"camera_intrinsic": np.array(intrinsic).tolist()}
        )
        poses.append({"token": f"{channel} was", "timestamp": when, **_pose(ego2global)})
        data.append(
            {
                "token": f"{channel} saw", "sample_token": "sample", "ego_pose_token": f"{channel} was",
                "calibrated_sensor_token": f"{channel} is", "timestamp": when, "is_key_frame": True,
                "fileformat": "jpg" if image else "pcd", "filename": file, "prev": "", "next": "",
                "height": 900 if image else 0, "width": 1600 if image else 0,
            }
        )  # fmt: skip
    return {
        "log": [{"token": "log", "logfile": "one", "vehicle": "n015", "date_captured": "", "location": "here"}],
        "scene": [
            {
                "token": "scene", "log_token": "log", "nbr_samples": 1, "first_sample_token": "sample",
                "last_sample_token": "sample", "name": SCENE, "description": "",
            }
        ],
        "sample": [{"token": "sample", "timestamp": time, "prev": "", "next": "", "scene_token": "scene"}],
        "sample_data": data,
        "ego_pose": poses,
        "calibrated_sensor": calibrations,
    }  # fmt: skip


def _annotation_tables(info: Row) -> dict[str, list[Row]]:
    lidar2global = np.array(info["ego2global"]) @ np.array(info["lidar_points"]["lidar2ego"])
    names = {number: name for name, number in info["categories"].items()}
    annotations, instances = [], []
    for number, entry in enumerate(each for each in info["instances"] if each["bbox_label_3d"] >= 0):
        x, y, z, length, width, height, yaw = entry["bbox_3d"]
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = Quaternion(axis=(0, 0, 1), radians=yaw).rotation_matrix, (x, y, z)
        category = CATEGORIES[names[entry["bbox_label_3d"]]]
        attribute = ATTRIBUTES.get(category.partition(".")[0])
        annotations.append(
            {
                "token": f"box {number}", "sample_token": "sample", "instance_token": f"thing {number}",
                "visibility_token": "4", "size": [width, length, height], "prev": "", "next": "",
                **_pose(lidar2global @ pose),
                "attribute_tokens": [shared_token("attribute", attribute)] if attribute else [],
                "num_lidar_pts": int(entry["num_lidar_pts"]), "num_radar_pts": int(entry["num_radar_pts"]),
            }
        )  # fmt: skip
        instances.append(
            {
                "token": f"thing {number}", "category_token": shared_token("category", category), "nbr_annotations": 1,
                "first_annotation_token": f"box {number}", "last_annotation_token": f"box {number}",
            }
        )  # fmt: skip
    return {"sample_annotation": annotations, "instance": instances}


def test_the_tree_gives_back_what_the_record_says(root: Path, info: Row) -> None:
    (sample,) = read_samples(root, version=VERSION, scenes=[SCENE])
    boxes = np.array([entry["bbox_3d"] for entry in info["instances"] if entry["bbox_label_3d"] >= 0])
    np.testing.assert_allclose(sample["instances"]["bbox_3d"][:, :6], boxes[:, :6], atol=2e-3)
    turned = sample["instances"]["bbox_3d"][:, 6] - boxes[:, 6]
    np.testing.assert_allclose(np.cos(turned), 1.0, atol=1e-4)  # a box stands upright in the LiDAR frame only nearly
    for camera in CAMERAS:
        np.testing.assert_allclose(
            sample["images"][camera]["lidar2cam"], np.array(info["images"][camera]["lidar2cam"]), atol=1e-4
        )


@pytest.mark.slow
def test_tiny_runs_through_evaluate_on_it(root: Path, tmp_path: Path) -> None:
    settings = ["model.weights=random", f"data.source={root}", f"data.version={VERSION}", "evaluation.split=mini_val"]
    options = [word for setting in settings for word in ("--set", setting)]
    call = ["evaluate", "--profile", "float", "--model", "tiny", "--device", "cpu", "--json", *options]
    os.environ["QDBEV_CACHE"] = os.environ.get("QDBEV_CACHE", str(tmp_path / "cache"))
    result = CliRunner().invoke(app, [*call, "--store", str(tmp_path / "runs")])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["metrics"]["NDS"] < 0.05 and document["metrics"]["mAP"] < 0.01  # random weights
    (submission,) = (tmp_path / "runs").glob("evaluation-*/results_nusc.json.gz")
    results = json.loads(gzip.decompress(submission.read_bytes()))["results"]
    assert list(results) == ["sample"] and 0 < len(results["sample"]) <= 300
