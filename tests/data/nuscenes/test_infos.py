"""Infos for mmdet3d: boxes of a camera against mmdet3d's own boxes and projection."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmdet3d.structures import CameraInstance3DBoxes, LiDARInstance3DBoxes

from qdbev.data.nuscenes.infos import ATTRIBUTES, NO_ATTRIBUTE, box_corners, camera_box, frame_info
from qdbev.data.nuscenes.layout import CLASSES
from qdbev.data.nuscenes.records import Sample, read_samples

ORDER = tuple(reversed(CLASSES))


@pytest.fixture(scope="module")
def sample(tiny_synthetic: Path) -> Sample:
    return read_samples(tiny_synthetic, version="v1.0-trainval")[1]


@pytest.fixture(scope="module")
def info(sample: Sample) -> dict[str, Any]:
    return frame_info(sample, root=Path("/data"), index=7, classes=ORDER)


def test_corners_are_those_of_mmdet3ds_boxes(sample: Sample) -> None:
    boxes = sample["instances"]["bbox_3d"]
    level = np.array([[0, -1, 0, 0.3], [0, 0, -1, 1.2], [1, 0, 0, -0.5], [0, 0, 0, 1.0]])  # a camera without tilt
    in_lidar = LiDARInstance3DBoxes(torch.from_numpy(boxes), origin=(0.5, 0.5, 0.5)).corners.numpy()
    moved = in_lidar @ level[:3, :3].T + level[:3, 3]
    for box, expected in zip(boxes, moved, strict=True):
        own = camera_box(box, lidar2cam=level)
        theirs = CameraInstance3DBoxes(torch.from_numpy(own[None]), origin=(0.5, 0.5, 0.5)).corners[0].numpy()
        for corners in (box_corners(own), theirs):
            assert np.allclose(_in_order(corners), _in_order(expected), atol=1e-4)


def _in_order(points: Any) -> Any:
    return np.array(sorted(np.round(points, 3).tolist()))


def test_centres_lie_where_the_lidars_projection_puts_them(sample: Sample, info: dict[str, Any]) -> None:
    counts = []
    for camera, seen in info["cam_instances"].items():
        image = info["images"][camera]
        for row in seen:
            start = next(one for one in info["instances"] if _same(one, row))
            point = np.array(image["lidar2img"]) @ [*start["bbox_3d"][:3], 1.0]
            assert np.allclose(row["center_2d"], point[:2] / point[2], atol=1e-6)
            assert row["depth"] == pytest.approx(point[2])
            left, top, right, bottom = row["bbox"]
            assert 0 <= left < right <= image["width"] and 0 <= top < bottom <= image["height"]
            speed, expected = np.hypot(*row["velocity"]), np.hypot(*start["velocity"])
            assert np.isnan(expected) or speed == pytest.approx(expected, abs=0.05 * expected + 1e-6)
        counts.append(len(seen))
    assert sum(counts) >= len(sample["instances"]["bbox_label_3d"]) / 2


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return bool(one["num_lidar_pts"] == other["num_lidar_pts"] and one["bbox_3d"][3] == other["bbox_3d"][3])


def test_labels_follow_the_order_asked_for(sample: Sample, info: dict[str, Any]) -> None:
    names = [CLASSES[label] for label in sample["instances"]["bbox_label_3d"]]
    assert [ORDER[row["bbox_label_3d"]] for row in info["instances"]] == names
    few = frame_info(sample, root=Path("/data"), index=0, classes=("car",))["instances"]
    assert [row["bbox_label_3d"] for row in few] == [0 if name == "car" else -1 for name in names]


def test_attributes_have_mmdet3ds_numbers(sample: Sample, info: dict[str, Any]) -> None:
    names = sample["instances"]["attribute"]
    numbers = [row["attr_label"] for row in info["instances"]]
    assert numbers == [ATTRIBUTES.index(name) if name else NO_ATTRIBUTE for name in names]
    assert (ATTRIBUTES.index("vehicle.parked"), NO_ATTRIBUTE) == (6, 8)


def test_paths_and_times(sample: Sample, info: dict[str, Any]) -> None:
    assert info["lidar_points"]["lidar_path"] == f"/data/{sample['lidar_path']}"
    assert info["images"]["CAM_BACK"]["img_path"] == f"/data/{sample['images']['CAM_BACK']['img_path']}"
    assert info["sample_idx"] == 7
    assert info["timestamp"] == pytest.approx(sample["timestamp"] / 1e6)
