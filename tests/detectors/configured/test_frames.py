"""Boxes of cameras back in the lidar's frame, merged, in the caller's classes: by the way there, and by the score."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmdet3d.structures import CameraInstance3DBoxes, DepthInstance3DBoxes, LiDARInstance3DBoxes
from mmengine.structures import InstanceData

from qdbev.data.configured.config import dataset_section, read_config
from qdbev.data.configured.dataset import ConfiguredDataset, class_order, join
from qdbev.data.nuscenes.infos import camera_box
from qdbev.data.nuscenes.layout import CLASSES
from qdbev.data.nuscenes.records import read_samples
from qdbev.detectors.configured import build_configured
from qdbev.detectors.configured.frames import frame_boxes, from_camera
from qdbev.evaluation.scores import score
from qdbev.evaluation.submission import sample_result, submission

EXAMPLES = Path(__file__).parents[3] / "docs" / "examples"
MODULES = {
    "fcos3d": ["backbone", "neck", "bbox_head"],
    "centerpoint": ["pts_voxel_encoder", "pts_backbone", "pts_neck", "pts_bbox_head"],
}
LEVEL = np.array([[0, -1, 0, 0.3], [0, 0, -1, 1.2], [1, 0, 0, -0.5], [0, 0, 0, 1.0]])  # looks along the lidar's x


@given(
    centre=st.tuples(*[st.floats(-50, 50)] * 3),
    size=st.tuples(*[st.floats(0.3, 12)] * 3),
    yaw=st.floats(-3.1, 3.1),
    turn=st.floats(-3.1, 3.1),
    velocity=st.tuples(*[st.floats(-15, 15)] * 2),
)
def test_the_way_to_a_camera_and_back(
    centre: tuple[float, ...], size: tuple[float, ...], yaw: float, turn: float, velocity: tuple[float, ...]
) -> None:
    about_z = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    lidar2cam = LEVEL.copy()
    lidar2cam[:3, :3] = LEVEL[:3, :3] @ about_z
    there = camera_box(np.array([*centre, *size, yaw]), lidar2cam=lidar2cam)
    speed = lidar2cam[:3, :3] @ [*velocity, 0]
    boxes = CameraInstance3DBoxes(
        torch.tensor([[*there, speed[0], speed[2]]], dtype=torch.float64), box_dim=9, origin=(0.5, 0.5, 0.5)
    )
    back = from_camera(boxes.tensor.double(), lidar2cam=torch.from_numpy(lidar2cam))[0].numpy()
    expected = np.array([centre[0], centre[1], centre[2] - size[2] / 2, *size, yaw, *velocity])
    expected[6] += np.round((back[6] - expected[6]) / (2 * np.pi)) * 2 * np.pi
    assert np.allclose(back, expected, atol=1e-3)


def instances(boxes: list[list[float]], scores: list[float], labels: list[int]) -> InstanceData:
    tensor = torch.tensor(boxes).reshape(-1, 9 if not boxes else len(boxes[0]))
    return InstanceData(
        bboxes_3d=LiDARInstance3DBoxes(tensor, box_dim=tensor.shape[1]),
        scores_3d=torch.tensor(scores),
        labels_3d=torch.tensor(labels, dtype=torch.int32),
    )


CAR = [5.0, 0.0, -1.0, 4.0, 2.0, 1.5, 0.0, 1.0, 0.0]


def test_what_two_cameras_saw_is_one_object_and_another_class_is_another() -> None:
    one = instances([CAR, CAR], [0.4, 0.3], [0, 1])
    two = instances([[5.2, *CAR[1:]], [15.0, *CAR[1:]]], [0.6, 0.5], [0, 0])
    merged = frame_boxes([(one, None), (two, None)], class_order=(3, 8))
    assert merged.scores_3d.tolist() == pytest.approx([0.6, 0.5, 0.3])
    assert merged.labels_3d.tolist() == [3, 3, 8]
    assert merged.bboxes_3d.tensor[:, 0].tolist() == pytest.approx([5.2, 15.0, 5.0])


def test_one_view_keeps_all_its_boxes_best_first() -> None:
    found = frame_boxes([(instances([CAR, CAR], [0.1, 0.4], [0, 0]), None)], class_order=(0,))
    assert found.scores_3d.tolist() == pytest.approx([0.4, 0.1])


def test_no_box_at_all() -> None:
    empty = instances([], [], [])
    assert len(frame_boxes([(empty, None), (empty, None)], class_order=(0,)).scores_3d) == 0


def test_boxes_without_velocity_stand_still() -> None:
    found = frame_boxes([(instances([CAR[:7]], [0.4], [0]), None)], class_order=(0,))
    assert found.bboxes_3d.tensor[0, 7:].tolist() == [0.0, 0.0]


def test_boxes_that_cannot_be_placed_are_refused() -> None:
    found = instances([CAR], [0.4], [0])
    found.bboxes_3d = CameraInstance3DBoxes(torch.tensor([CAR]), box_dim=9)
    with pytest.raises(ValueError, match="use load_type mv_image_based"):
        frame_boxes([(found, None)], class_order=(0,))
    found.bboxes_3d = DepthInstance3DBoxes(torch.tensor([CAR]), box_dim=9)
    with pytest.raises(ValueError, match="predicts DepthInstance3DBoxes"):
        frame_boxes([(found, None)], class_order=(0,))


@pytest.mark.parametrize("model", MODULES)
def test_ground_truth_as_prediction_is_found_whole(tiny_synthetic: Path, model: str) -> None:
    """The whole way: records, infos, the config's pipeline, packed truth, merging, classes, submission, devkit."""
    samples = read_samples(tiny_synthetic, version="v1.0-trainval")
    scenes = sorted({one["scene"] for one in samples})[-1:]
    samples = [one for one in samples if one["scene"] in scenes]
    config = read_config(EXAMPLES / f"{model}_config.py", options={})
    section = dataset_section(config, name="train")
    moving = ("RandomFlip3D", "GlobalRotScaleTrans", "ObjectRangeFilter")
    section["pipeline"] = [step for step in section["pipeline"] if step["type"] not in moving]
    data = ConfiguredDataset(samples, root=tiny_synthetic, section=section, train=True)
    order = class_order(section)
    detector = build_configured(config["model"], parts={"all": MODULES[model]}, class_order=order)
    results: dict[str, Any] = {}
    for index, sample in enumerate(samples):
        batch = join([data[index]])
        for packed in batch["data_samples"]:
            truth = packed.gt_instances_3d
            scores = torch.full((len(truth.labels_3d),), 0.5)
            packed.pred_instances_3d = InstanceData(
                bboxes_3d=truth.bboxes_3d, scores_3d=scores, labels_3d=truth.labels_3d
            )
        detector.forward = lambda inputs, samples, mode: samples  # type: ignore[method-assign]
        ((token, found),) = detector.detections(batch["inputs"], batch["data_samples"])
        results[token] = sample_result(
            found.bboxes_3d.tensor,
            scores=found.scores_3d,
            labels=found.labels_3d,
            token=token,
            lidar2ego=sample["lidar2ego"],
            ego2global=sample["ego2global"],
        )
    scores = score(tiny_synthetic, version="v1.0-trainval", submission=submission(results), scenes=scenes).serialize()
    labels = np.concatenate([one["instances"]["bbox_label_3d"] for one in samples])
    present = {CLASSES[label] for label in labels}
    rows = [values for name, values in scores["classes"].items() if name in present]
    assert len(rows) >= 5
    assert min(row["AP"] for row in rows) > 0.999
    for error, most in {"ATE": 1e-4, "ASE": 1e-4, "AOE": 5e-3, "AVE": 5e-3}.items():
        assert max(row[error] or 0.0 for row in rows) < most, error
