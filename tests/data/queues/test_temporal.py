"""Queues, streams and their motion differences, by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qdbev.data.nuscenes.records import read_samples
from qdbev.data.queues.temporal import TemporalDataset, queue_indices, queue_motions, stream_motions

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


@pytest.fixture(scope="module")
def samples(tiny_tree: Path) -> list[dict[str, Any]]:
    return read_samples(tiny_tree, version="v1.0-trainval")


def dataset(samples: list[dict[str, Any]], root: Path, **changes: Any) -> TemporalDataset:
    settings = {"train": True, "mean": MEAN, "std": STD, "to_rgb": True, "queue_length": 3, "pad_divisor": 16}
    return TemporalDataset(samples, root=root, **settings | changes)


def sample(scene: str, index: int, *, x: float, y: float, yaw: float) -> dict[str, Any]:
    can_bus = np.zeros(18)
    can_bus[:3], can_bus[3:16], can_bus[16], can_bus[17] = [x, y, 0.5], 7, math.radians(yaw), yaw
    return {"scene": scene, "index_in_scene": index, "can_bus": can_bus}


def test_differences_by_hand() -> None:
    queue = [
        sample("a", 3, x=10, y=20, yaw=359), sample("a", 5, x=13, y=24, yaw=1),
        sample("b", 0, x=100, y=0, yaw=10), sample("b", 1, x=101, y=0, yaw=15),
    ]  # fmt: skip
    motions = queue_motions(queue)
    assert [exists for _, exists in motions] == [False, True, False, True]
    picked = [can_bus[[0, 1, 2, 17]].tolist() for can_bus, _ in motions]
    assert picked == [[0, 0, 0, 0], [3, 4, 0, -358], [0, 0, 0, 0], [1, 0, 0, 5]]  # degrees are not wrapped
    for (can_bus, _), own in zip(motions, queue, strict=True):
        assert (can_bus[3:16] == 7).all()
        assert can_bus[16] == np.float32(own["can_bus"][16])  # the yaw in radians stays absolute
    assert queue[1]["can_bus"][0] == 13  # the sample itself is left alone


def test_a_stream_looks_at_the_key_frame_before_wherever_it_stands() -> None:
    frames = [sample("a", index, x=index**2, y=0, yaw=index) for index in range(3)]
    shuffled = [frames[2], sample("b", 0, x=50, y=0, yaw=0), frames[0], frames[1]]
    motions = stream_motions(shuffled)
    assert [exists for _, exists in motions] == [True, False, False, True]
    assert [can_bus[0] for can_bus, _ in motions] == [3, 0, 0, 1]


def test_queue_drops_one_of_the_frames_before() -> None:
    queues = [queue_indices(9, length=3, generator=np.random.default_rng(seed)) for seed in range(300)]
    counts = {tuple(queue): queues.count(queue) for queue in queues}
    assert set(counts) == {(7, 8, 9), (6, 8, 9), (6, 7, 9)}
    assert min(counts.values()) > 70
    assert queue_indices(5, length=1, generator=np.random.default_rng(0)) == [5]
    assert queue_indices(0, length=3, generator=np.random.default_rng(0)) == [0, 0, 0]


def test_training_item(samples: list[dict[str, Any]], tiny_tree: Path) -> None:
    data = dataset(samples, tiny_tree, drop_one=False, photometric=False, grid_mask_probability=0)
    item = data[4]  # scene-0002, frame 1; its queue reaches back into scene-0001
    image, target = item["inputs"]["img"], item["data_samples"]
    assert image.shape == (3, 6, 3, 32, 32) and image.dtype == torch.float32  # 18x32 padded to 32x32
    assert not image[..., 18:, :].any() and image[..., :18, :].any()
    frames = target.metainfo["frames"]
    assert [frame["token"] for frame in frames] == ["scene-0001-2", "scene-0002-0", "scene-0002-1"]
    assert [frame["prev_exists"] for frame in frames] == [False, False, True]
    # 2 m north in half a second
    np.testing.assert_allclose(frames[2]["can_bus"][[0, 1, 2, 17]], [0, 2, 0, 0], atol=1e-6)
    assert frames[2]["img_shape"] == (32, 32) and frames[2]["scene"] == "scene-0002"
    assert frames[2]["index_in_scene"] == 1 and frames[2]["timestamp"] == 1_500_000
    truth = target.gt_instances_3d
    # the hidden car has no point, the far one is beyond 51.2 m; z is the bottom: gravity centre -1, height 1.6
    np.testing.assert_allclose(
        truth.bboxes_3d.tensor,
        [[-3, 18.5, -1.8, 4, 2, 1.6, math.radians(120), 0, 2], [2, 7.5, -1.8, 4, 2, 1.6, math.radians(120), 0, 0]],
        atol=1e-5,
    )
    assert truth.labels_3d.tolist() == [0, 9]


def test_pixels_and_projection_follow_the_scale(samples: list[dict[str, Any]], tiny_tree: Path) -> None:
    full, half = (
        dataset(samples, tiny_tree, train=False, scale=scale)[0]["data_samples"].metainfo["frames"][0]["lidar2img"]
        for scale in (1.0, 0.5)
    )
    np.testing.assert_allclose(half, torch.tensor([0.5, 0.5, 1, 1])[:, None] * full)
    # 10 m ahead of the lidar on its own height: 9.5 m + motion ahead of the camera and half a metre up
    point = full[0] @ torch.tensor([0, 10.0, 0, 1])
    np.testing.assert_allclose(point[:2] / point[2], [16, 9 - 20 * 0.5 / 9.74], rtol=1e-5)


def test_evaluation_item_is_one_frame_without_augmentation(samples: list[dict[str, Any]], tiny_tree: Path) -> None:
    data = dataset(samples, tiny_tree, train=False, queue_length=4)
    items = [data.item(4, generator=np.random.default_rng(seed)) for seed in range(3)]
    assert all(item["inputs"]["img"].shape == (1, 6, 3, 32, 32) for item in items)
    assert all(torch.equal(item["inputs"]["img"], items[0]["inputs"]["img"]) for item in items)
    (frame,) = items[0]["data_samples"].metainfo["frames"]
    assert frame["prev_exists"] and frame["can_bus"][1] == 2
    assert [data[index]["data_samples"].metainfo["frames"][0]["prev_exists"] for index in range(9)] == [
        False, True, True, False, True, True, False, True, True
    ]  # fmt: skip


def test_augmentation_is_a_function_of_the_generator(samples: list[dict[str, Any]], tiny_tree: Path) -> None:
    data = dataset(samples, tiny_tree)
    first, again, other = (data.item(4, generator=np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert torch.equal(first["inputs"]["img"], again["inputs"]["img"])
    assert not torch.equal(first["inputs"]["img"], other["inputs"]["img"])


def test_grid_mask_touches_the_current_frame_only(samples: list[dict[str, Any]], tiny_tree: Path) -> None:
    settings = {"photometric": False, "drop_one": False}
    plain = dataset(samples, tiny_tree, grid_mask_probability=0, **settings)[4]["inputs"]["img"]
    masked = dataset(samples, tiny_tree, grid_mask_probability=1, **settings)[4]["inputs"]["img"]
    assert torch.equal(plain[:-1], masked[:-1]) and not torch.equal(plain[-1], masked[-1])
    kept = masked[-1] != 0
    assert torch.equal(masked[-1][kept], plain[-1][kept])


def test_range_is_that_of_the_points(samples: list[dict[str, Any]], tiny_tree: Path) -> None:
    near = dataset(samples, tiny_tree, train=False, point_cloud_range=(-10, -10, -5, 10, 10, 3))
    assert near[4]["data_samples"].gt_instances_3d.labels_3d.tolist() == [9]
    nothing = dataset(samples, tiny_tree, train=False, point_cloud_range=(-1, -1, -5, 1, 1, 3))
    truth = nothing[4]["data_samples"].gt_instances_3d
    assert truth.bboxes_3d.tensor.shape == (0, 9) and truth.labels_3d.shape == (0,)


def test_missing_velocity_becomes_zero(samples: list[dict[str, Any]], tiny_tree: Path) -> None:
    unknown = dict(samples[4]) | {"instances": dict(samples[4]["instances"])}
    unknown["instances"]["velocity"] = np.full_like(unknown["instances"]["velocity"], np.nan)
    boxes = dataset([unknown], tiny_tree, train=False)[0]["data_samples"].gt_instances_3d.bboxes_3d.tensor
    assert boxes[:, 7:].tolist() == [[0, 0], [0, 0]]


def test_queue_length_counts_the_current_frame(samples: list[dict[str, Any]], tiny_tree: Path) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        dataset(samples, tiny_tree, queue_length=0)


def test_turning_is_off_by_default_and_in_evaluation(samples: list[dict[str, Any]], tiny_tree: Path) -> None:
    settings = {"photometric": False, "grid_mask_probability": 0, "drop_one": False}
    plain = dataset(samples, tiny_tree, **settings)[4]["data_samples"]
    turned = dataset(samples, tiny_tree, bev_rotation_rad=0.5, **settings)[4]["data_samples"]
    yaw = turned.gt_instances_3d.bboxes_3d.tensor[0, 6] - plain.gt_instances_3d.bboxes_3d.tensor[0, 6]
    assert 0.01 < abs(float(yaw)) <= 0.5
    for own, other in zip(turned.metainfo["frames"], plain.metainfo["frames"], strict=True):
        assert float((other["can_bus"][16] - own["can_bus"][16] - yaw) % (2 * math.pi)) == pytest.approx(
            0, abs=1e-5
        ) or float((other["can_bus"][16] - own["can_bus"][16] - yaw) % (2 * math.pi)) == pytest.approx(2 * math.pi)
    box = turned.gt_instances_3d.bboxes_3d.gravity_center[0].numpy()
    same = plain.gt_instances_3d.bboxes_3d.gravity_center[0].numpy()
    for camera in range(6):
        here = turned.metainfo["frames"][-1]["lidar2img"][camera].numpy() @ [*box, 1]
        there = plain.metainfo["frames"][-1]["lidar2img"][camera].numpy() @ [*same, 1]
        np.testing.assert_allclose(here, there, rtol=1e-4, atol=1e-3)
    still = dataset(samples, tiny_tree, train=False, bev_rotation_rad=0.5)[4]["data_samples"]
    assert torch.equal(still.gt_instances_3d.bboxes_3d.tensor, plain.gt_instances_3d.bboxes_3d.tensor)
