"""Result entries from boxes: frames, order, ranges, attributes, by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyquaternion import Quaternion

from qdbev.evaluation.submission import (
    CLASSES,
    class_ranges,
    lidar_boxes,
    sample_result,
    submission,
    write_submission,
)

# lidar: 0.5 m before and 1.8 m above the ego origin, its y axis along the ego's x; ego: at (100, 200), facing north
LIDAR2EGO = np.array([[0, 1, 0, 0.5], [-1, 0, 0, 0], [0, 0, 1, 1.8], [0, 0, 0, 1.0]])
EGO2GLOBAL = np.array([[0, -1, 0, 100.0], [1, 0, 0, 200.0], [0, 0, 1, 0], [0, 0, 0, 1.0]])


def results(boxes: Any, *, scores: Any, labels: Any) -> list[dict[str, Any]]:
    return sample_result(boxes, scores=scores, labels=labels, token="t", lidar2ego=LIDAR2EGO, ego2global=EGO2GLOBAL)


def test_one_car_by_hand() -> None:
    # 10 m ahead (lidar y), 2 m right (lidar x), bottom at -1.8, 4 x 2 x 1.6 m, heading ahead (yaw 90), 5 m/s ahead
    (entry,) = results([[2, 10, -1.8, 4, 2, 1.6, math.pi / 2, 0, 5]], scores=[0.7], labels=[0])
    # ego: (10.5, -2, 0.8); global: north is +y, so x = 100 + 2, y = 200 + 10.5
    assert entry["translation"] == pytest.approx([102, 210.5, 0.8])
    assert entry["size"] == [2, 4, 1.6]  # nuScenes: width, length, height
    assert Quaternion(entry["rotation"]).yaw_pitch_roll[0] == pytest.approx(math.pi / 2)
    assert entry["velocity"] == pytest.approx([0, 5])
    assert entry["detection_name"] == "car" and entry["attribute_name"] == "vehicle.moving"
    assert entry["detection_score"] == 0.7 and entry["sample_token"] == "t"


@given(yaw=st.floats(-3.1, 3.1), roll=st.floats(-0.1, 0.1), pitch=st.floats(-0.1, 0.1), heading=st.floats(-3.1, 3.1))
def test_rotation_is_the_product_of_matrices(yaw: float, roll: float, pitch: float, heading: float) -> None:
    tilt = Quaternion(axis=[1, 0, 0], angle=roll) * Quaternion(axis=[0, 1, 0], angle=pitch)
    pose = np.eye(4)
    pose[:3, :3] = (Quaternion(axis=[0, 0, 1], angle=heading) * tilt).rotation_matrix
    (entry,) = sample_result(
        [[1, 2, 3, 4, 2, 1, yaw, 1, 0]], scores=[1], labels=[0], token="t", lidar2ego=LIDAR2EGO, ego2global=pose
    )
    turn = pose[:3, :3] @ LIDAR2EGO[:3, :3]
    box = np.array([[math.cos(yaw), -math.sin(yaw), 0], [math.sin(yaw), math.cos(yaw), 0], [0, 0, 1]])
    np.testing.assert_allclose(Quaternion(entry["rotation"]).rotation_matrix, turn @ box, atol=1e-6)
    np.testing.assert_allclose(entry["velocity"], (turn @ [1, 0, 0])[:2], atol=1e-9)


@given(
    yaw=st.floats(-3.1, 3.1),
    x=st.floats(-30, 30),
    speed=st.floats(-9, 9),
    height=st.floats(0.5, 3),
    length=st.floats(1, 9),
)
def test_entries_turn_back_into_the_boxes_they_came_from(
    yaw: float, x: float, speed: float, height: float, length: float
) -> None:
    box = [x, 5, -1.8, length, 2, height, yaw, speed, 1]
    entries = results([box, box], scores=[0.7, 0.6], labels=[0, 0])
    back = lidar_boxes(entries, global2lidar=np.linalg.inv(EGO2GLOBAL @ LIDAR2EGO))
    np.testing.assert_allclose(back, [box, box], atol=1e-6)
    assert lidar_boxes([], global2lidar=np.eye(4)).shape == (0, 9)


def test_range_is_per_class_in_the_ego_frame() -> None:
    # lidar y = 49.4 is ego x = 49.9; cars reach 50 m, pedestrians 40, cones 30
    ahead = [[0, y, 0, 1, 1, 1, 0, 0, 0] for y in (49.4, 49.6, 39.4, 39.6, 29.4, 29.6)]
    names = ["car", "car", "pedestrian", "pedestrian", "traffic_cone", "traffic_cone"]
    kept = results(ahead, scores=[0.5] * 6, labels=[CLASSES.index(name) for name in names])
    assert [entry["detection_name"] for entry in kept] == ["car", "pedestrian", "traffic_cone"]
    assert class_ranges().tolist() == [50, 50, 50, 50, 50, 30, 40, 40, 40, 30]


def test_best_first_and_at_most_500_and_finite() -> None:
    scores = np.linspace(0, 1, 600)
    boxes = np.tile([0, 5, 0, 1, 1, 1, 0, 0, 0.0], (600, 1))
    boxes[599, 6] = np.nan
    boxes[598, 3] = np.inf
    entries = results(boxes, scores=scores, labels=np.zeros(600, dtype=int))
    assert len(entries) == 500
    assert [entry["detection_score"] for entry in entries] == scores[98:598][::-1].tolist()


def test_no_box() -> None:
    assert results(np.empty((0, 9)), scores=[], labels=[]) == []


def test_attributes_at_the_threshold() -> None:
    cases = {
        ("bus", 0.21): "vehicle.moving", ("bus", 0.19): "vehicle.stopped", ("truck", 0.19): "vehicle.parked",
        ("bicycle", 0.21): "cycle.with_rider", ("motorcycle", 0.19): "cycle.without_rider",
        ("pedestrian", 0.21): "pedestrian.moving", ("pedestrian", 0.19): "pedestrian.standing",
        ("barrier", 9.0): "", ("traffic_cone", 9.0): "",
    }  # fmt: skip
    for (name, speed), expected in cases.items():
        (entry,) = results([[0, 5, 0, 1, 1, 1, 0, 0, speed]], scores=[1], labels=[CLASSES.index(name)])
        assert entry["attribute_name"] == expected


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match="2 boxes, 1 scores"):
        results(np.zeros((2, 9)), scores=[1], labels=[0, 0])


def test_file_is_the_content_and_a_failure_leaves_nothing(tmp_path: Path) -> None:
    content = submission({"t": results([[2, 10, -1.8, 4, 2, 1.6, 0, 0, 5]], scores=[0.7], labels=[0]), "u": []})
    write_submission(content, path=tmp_path / "a.json")
    write_submission(content, path=tmp_path / "b.json")
    assert json.loads((tmp_path / "a.json").read_text()) == content
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert content["meta"]["use_camera"] is True and content["meta"]["use_lidar"] is False
    with pytest.raises(ValueError):
        write_submission({"results": {"t": math.nan}}, path=tmp_path / "c.json")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "b.json"]
