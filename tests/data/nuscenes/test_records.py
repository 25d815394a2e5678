"""Tables to samples on the tree written by hand, and what is said about a broken tree."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qdbev.data.nuscenes.layout import CAMERAS, CLASSES, NUSCENES
from qdbev.data.nuscenes.records import read_samples
from qdbev.data.nuscenes.sample_cache import scene_digest
from qdbev.data.nuscenes.tables import available_scenes, split_scenes

VERSION = "v1.0-trainval"


@pytest.fixture
def copy(tiny_tree: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_tree, tmp_path / "tree"))


def test_frames_come_scene_by_scene(tiny_tree: Path) -> None:
    samples = read_samples(tiny_tree, version=VERSION, scenes=["scene-0003", "scene-0001"])
    assert [sample["token"] for sample in samples] == [
        f"{scene}-{frame}" for scene in ("scene-0003", "scene-0001") for frame in range(3)
    ]
    assert [sample["index_in_scene"] for sample in samples] == [0, 1, 2, 0, 1, 2]
    assert [sample["timestamp"] for sample in samples[:3]] == [1_000_000, 1_500_000, 2_000_000]
    assert tuple(samples[0]["images"]) == CAMERAS
    assert available_scenes(tiny_tree, version=VERSION) == ["scene-0001", "scene-0002", "scene-0003"]


def test_boxes_by_hand(tiny_tree: Path) -> None:
    """Frame 1 of scene-0002: heading north, 2 m on; the car started 20 m ahead, 3 m left, and makes 2 m/s."""
    sample = read_samples(tiny_tree, version=VERSION, scenes=["scene-0002"])[1]
    found = sample["instances"]
    # lidar is 0.5 m before and 2 m above the ego origin; x right, y ahead: y = 20 + 1 - 2 - 0.5, z = 1 - 2
    np.testing.assert_allclose(found["bbox_3d"][0], [-3, 18.5, -1, 4, 2, 1.6, math.radians(120)], atol=1e-9)
    np.testing.assert_allclose(found["velocity"][0], [0, 2], atol=1e-9)
    assert [CLASSES[label] for label in found["bbox_label_3d"]] == ["car", "car", "traffic_cone", "car"]  # no animal
    assert found["bbox_3d_isvalid"].tolist() == [True, False, True, True]
    assert found["attribute"] == ["vehicle.moving", "vehicle.parked", "", "vehicle.parked"]


def test_boxes_in_the_vehicles_frame_are_seen_from_where_nuscenes_has_its_lidar(tiny_tree: Path) -> None:
    layout = replace(NUSCENES, frame="vehicle")
    sample = read_samples(tiny_tree, version=VERSION, scenes=["scene-0002"], layout=layout)[1]
    # x right, y ahead, 0.94 m before and 1.84 m above the vehicle's origin; the car of above, 19 m ahead of that
    np.testing.assert_allclose(sample["lidar2ego"] @ [1, 0, 0, 1], [0.94, -1, 1.84, 1], atol=1e-12)
    np.testing.assert_allclose(sample["lidar2ego"] @ [0, 1, 0, 1], [1.94, 0, 1.84, 1], atol=1e-12)
    np.testing.assert_allclose(sample["instances"]["bbox_3d"][0][:3], [-3, 19 - 0.94, 1 - 1.84], atol=1e-9)
    assert sample["lidar_path"] == ""


def test_projection_compensates_the_ego_motion(tiny_tree: Path) -> None:
    """The front camera exposes 60 ms before the lidar, 0.24 m behind: a point 10 m before it is 10 m before it then."""
    sample = read_samples(tiny_tree, version=VERSION, scenes=["scene-0001"])[1]
    front = sample["images"]["CAM_FRONT"]["lidar2cam"]
    # camera 1 m ahead of and 1.5 m above the ego origin, lidar 0.5 m ahead and 2 m above: lidar is 0.5 m behind, 0.5 up
    # of the camera, and 0.24 m further on by the motion; lidar y is camera z, lidar x camera x, lidar z camera -y
    np.testing.assert_allclose(front @ [0, 10, 0, 1], [0, -0.5, 10 - 0.5 + 0.24, 1], atol=1e-9)
    np.testing.assert_allclose(front @ [1, 10, 2, 1], [1, -2.5, 9.74, 1], atol=1e-9)
    left = sample["images"]["CAM_FRONT_LEFT"]["lidar2cam"] @ [-10 * math.sin(math.radians(55)), 10 * 0.573576436, 0, 1]
    assert left[2] == pytest.approx(10, abs=0.5) and abs(left[0]) < 0.5


def test_can_bus_is_absolute_and_from_poses_without_can_files(tiny_tree: Path) -> None:
    sample = read_samples(tiny_tree, version=VERSION, scenes=["scene-0002"])[1]
    half = math.sqrt(0.5)
    expected = [100, 2, 0, half, 0, 0, half, 0, 0, 9.81, 0, 0, 0, 4, 0, 0, math.pi / 2, 90]
    np.testing.assert_allclose(sample["can_bus"], expected, atol=1e-9)


def test_can_bus_files_are_used(copy: Path) -> None:
    (copy / "can_bus").mkdir()
    pose = {
        "accel": [1, 2, 3],
        "rotation_rate": [4, 5, 6],
        "vel": [7, 8, 9],
        "pos": [0, 0, 0],
        "orientation": [1, 0, 0, 0],
    }
    messages = [pose | {"utime": 1_400_000}, pose | {"utime": 1_600_000, "vel": [0, 0, 0]}]
    (copy / "can_bus/scene-0001_pose.json").write_text(json.dumps(messages))
    samples = read_samples(copy, version=VERSION, scenes=["scene-0001"])
    assert samples[0]["can_bus"][7:16].tolist() == list(range(1, 10))  # the first message later than 1.0 s
    assert samples[1]["can_bus"][7:16].tolist() == [1, 2, 3, 4, 5, 6, 0, 0, 0]
    assert samples[2]["can_bus"][13:16].tolist() == [0, 0, 0]  # none is later than 2.0 s: the last


def test_cache_gives_the_same_and_follows_the_tables(copy: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = read_samples(copy, version=VERSION, cache=cache)
    (path,) = cache.iterdir()
    again = read_samples(copy, version=VERSION, cache=cache)
    assert_same(first, again)
    path.write_bytes(path.read_bytes()[:-200])  # a damaged cache is made again
    assert_same(first, read_samples(copy, version=VERSION, cache=cache))
    table = copy / VERSION / "sample_annotation.json"
    table.write_text(table.read_text().replace('"num_lidar_pts": 7', '"num_lidar_pts": 0'))
    changed = read_samples(copy, version=VERSION, cache=cache)
    assert first[0]["instances"]["bbox_3d_isvalid"][0] and not changed[0]["instances"]["bbox_3d_isvalid"][0]
    assert len(list(cache.glob("*.npz"))) == 2
    assert not list(cache.glob(".*"))


def assert_same(first: list[dict[str, object]], second: list[dict[str, object]]) -> None:
    def flat(value: object, name: str = "") -> dict[str, object]:
        if isinstance(value, dict):
            return {key: leaf for own, part in value.items() for key, leaf in flat(part, f"{name}/{own}").items()}
        return {name: value}

    assert len(first) == len(second)
    for left, right in zip(first, second, strict=True):
        own, other = flat(left), flat(right)
        assert own.keys() == other.keys()
        for key, value in own.items():
            np.testing.assert_array_equal(value, other[key], err_msg=key)
            assert type(value) is type(other[key]), key


def test_digest_knows_what_matters(copy: Path, tiny_tree: Path) -> None:
    original = scene_digest(read_samples(tiny_tree, version=VERSION, scenes=["scene-0001", "scene-0003"]))
    assert scene_digest(read_samples(copy, version=VERSION, scenes=["scene-0003", "scene-0001"])) == original
    fewer = [sample for sample in read_samples(tiny_tree, version=VERSION) if sample["scene"] == "scene-0001"]
    assert scene_digest(fewer) != original
    image = copy / "samples/CAM_BACK/scene-0003-2-CAM_BACK.jpg"
    image.write_bytes(image.read_bytes() + b"x")
    assert scene_digest(read_samples(copy, version=VERSION, scenes=["scene-0001", "scene-0003"])) != original


@pytest.mark.parametrize(
    ("field", "value"), [("rotation", [1.0, 0, 0, 0]), ("translation", [0, 0, 1.0]), ("num_lidar_pts", 0)]
)
def test_digest_sees_every_annotation_field(copy: Path, field: str, value: object) -> None:
    before = scene_digest(read_samples(copy, version=VERSION))
    table = copy / VERSION / "sample_annotation.json"
    records = json.loads(table.read_text())
    records[0][field] = value
    table.write_text(json.dumps(records))
    assert scene_digest(read_samples(copy, version=VERSION)) != before


def test_broken_trees_are_named(copy: Path) -> None:
    with pytest.raises(ValueError, match=r"no nuScenes version 'v1\.0-mini'.*found v1\.0-trainval"):
        read_samples(copy, version="v1.0-mini")
    with pytest.raises(ValueError, match="scene-0009"):
        read_samples(copy, version=VERSION, scenes=["scene-0001", "scene-0009"])
    (copy / "samples/CAM_BACK/scene-0003-2-CAM_BACK.jpg").unlink()
    assert len(read_samples(copy, version=VERSION, scenes=["scene-0001"])) == 3
    with pytest.raises(ValueError, match=r"1 of \d+ camera images are missing in .*\(CAM_BACK 1\), first .*generate"):
        read_samples(copy, version=VERSION)


def test_half_written_tables_are_named(copy: Path) -> None:
    table = copy / VERSION / "ego_pose.json"
    whole = table.read_text()
    table.write_text(json.dumps(json.loads(whole)[:-1]))
    with pytest.raises(ValueError, match=r"scene scene-0003 refers to .*do not hold"):
        read_samples(copy, version=VERSION)
    table.write_text(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"ego_pose\.json is damaged"):
        read_samples(copy, version=VERSION)
    table.unlink()
    with pytest.raises(ValueError, match=r"lacks the table.*ego_pose\.json"):
        read_samples(copy, version=VERSION)


def test_splits_are_the_devkits() -> None:
    full, mini = split_scenes(VERSION), split_scenes("v1.0-mini")
    assert (len(full["train"]), len(full["val"])) == (700, 150)
    assert not set(full["train"]) & set(full["val"])
    assert (len(mini["train"]), mini["val"]) == (8, ["scene-0103", "scene-0916"])
    assert {name: len(scenes) for name, scenes in split_scenes("v1.0-test").items()} == {"test": 150}
    with pytest.raises(ValueError, match=r"v1\.0-lyft.*v1\.0-mini"):
        split_scenes("v1.0-lyft")
