"""Frames for detectors that lift images: what is cut, matrices that belong to it, past frames, batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qdbev.data.geometry import lidar_to_image
from qdbev.data.nuscenes.records import read_samples
from qdbev.data.queues.batches import streaming_batches, training_batches
from qdbev.data.queues.lidar_depths import image_matrix
from qdbev.data.queues.lifting import LiftDataset, cropped
from tests.conftest import TINY_VERSION

SIZE = (128, 64)


@pytest.fixture(scope="module")
def samples(tiny_synthetic: Path) -> list[dict[str, Any]]:
    return read_samples(tiny_synthetic, version=TINY_VERSION)


@pytest.fixture
def dataset(samples: list[dict[str, Any]], tiny_synthetic: Path):
    def make(**changes: Any) -> LiftDataset:
        options: dict[str, Any] = {"train": True, "size_px": SIZE, "scale": 1.0, "to_rgb": True}
        options |= {"mean": (100.0, 110.0, 120.0), "std": (50.0, 60.0, 70.0)}
        return LiftDataset(samples, root=tiny_synthetic, **(options | changes))

    return make


def test_the_middle_of_the_bottom_is_cut_and_black_is_added() -> None:
    image = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    assert np.array_equal(cropped(image, scale=1.0, size_px=(4, 2)), image[2:, 1:5])
    more = cropped(image, scale=1.0, size_px=(8, 5))
    assert more[0].max() == more[:, 6:].max() == 0
    assert np.array_equal(more[1:, :6], image)
    smooth = np.linspace(0, 200, 40)[None, :, None].repeat(40, 0).repeat(3, 2).astype(np.uint8)
    half = cropped(smooth, scale=0.5, size_px=(20, 20))
    assert half.shape == (20, 20, 3) and np.abs(half[5, 1:-1, 0] - smooth[5, 2:-2:2, 0].astype(float)).max() < 6


def test_the_matrix_goes_with_the_cut() -> None:
    matrix = image_matrix((1600, 900), scale=0.48, size_px=(704, 256))
    assert (matrix @ [800, 600, 7, 1]).tolist() == [800 * 0.48 - 32, 600 * 0.48 - 176, 7, 1]


def test_an_item_by_its_matrices_and_pixels(dataset: Any, samples: list[dict[str, Any]]) -> None:
    item = dataset()[1]
    (frame,) = item["data_samples"].metainfo["frames"]
    images = list(samples[1]["images"].values())
    taken = np.stack([image["cam2img"] for image in images])
    projection = lidar_to_image(taken, lidar2cam=np.stack([image["lidar2cam"] for image in images]))
    point = np.array([3.0, 12.0, -1.0, 1.0])
    whole = np.tile(np.eye(4), (6, 1, 1))
    whole[:, :3, :3] = frame["cam2img"]
    np.testing.assert_allclose((whole @ np.linalg.inv(frame["cam2lidar"])) @ point, projection @ point, atol=1e-6)
    np.testing.assert_allclose(frame["image_matrix"][0, :2, 3], [-24, -32])  # of 176x96
    np.testing.assert_allclose(frame["lidar2global"], samples[1]["ego2global"] @ samples[1]["lidar2ego"])
    assert item["inputs"]["img"].shape == (1, 6, 3, 64, 128)
    assert frame["img_shape"] == (64, 128) and np.array_equal(frame["bev_matrix"], np.eye(4))
    import cv2

    file = cv2.imread(str(dataset()._load.root / images[0]["img_path"]))
    pixel = file[32 + 5, 24 + 9, ::-1]
    expected = (pixel - np.array([100.0, 110, 120])) / [50, 60, 70]
    np.testing.assert_allclose(item["inputs"]["img"][0, 0, :, 5, 9].numpy(), expected, atol=1e-5)
    swapped = dataset(to_rgb=False)[1]["inputs"]["img"][0, 0, :, 5, 9].numpy()  # statistics stay in their order
    np.testing.assert_allclose(swapped, (pixel[::-1] - np.array([100.0, 110, 120])) / [50, 60, 70], atol=1e-5)


def places(item: dict[str, Any]) -> list[tuple[str, int, bool]]:
    frames = item["data_samples"].metainfo["frames"]
    return [(frame["scene"], frame["index_in_scene"], frame["prev_exists"]) for frame in frames]


def test_the_past_frame_stays_in_its_scene(dataset: Any, samples: list[dict[str, Any]]) -> None:
    data = dataset(frames_back=2)
    scenes = [sample["scene"] for sample in samples]
    assert places(data[3]) == [(scenes[0], 1, False), (scenes[0], 3, True)]
    assert places(data[1]) == [(scenes[0], 0, False), (scenes[0], 1, True)]
    assert scenes[4] != scenes[3]
    first = data[4]
    assert places(first) == [(scenes[4], 0, False)] * 2
    assert torch.equal(first["inputs"]["img"][0], first["inputs"]["img"][1])


def test_a_drawn_past_follows_the_generator(dataset: Any) -> None:
    data = dataset(frames_back=2, draw_past=True)
    drawn = {
        seed: data.arrays(3, generator=np.random.default_rng(seed))["frames"][0]["index_in_scene"] for seed in range(20)
    }
    assert set(drawn.values()) == {0, 1, 2}
    assert drawn[5] == data.arrays(3, generator=np.random.default_rng(5))["frames"][0]["index_in_scene"]


def test_streams_and_training_batches(dataset: Any) -> None:
    data = dataset(train=False, frames_back=2)
    stream = list(streaming_batches(data, streams=2, workers=0))
    assert stream[0]["inputs"]["img"].shape == (2, 1, 6, 3, 64, 128)
    follows = [[sample.metainfo["frames"][0]["prev_exists"] for sample in batch["data_samples"]] for batch in stream]
    assert follows[:5] == [[False] * 2, [True] * 2, [True] * 2, [True] * 2, [False] * 2]
    (batch,) = training_batches(dataset(frames_back=1), batch_size=2, seed=0, start_step=0, steps=1, workers=0)
    assert batch["inputs"]["img"].shape == (2, 2, 6, 3, 64, 128)
    truth = batch["data_samples"][0].gt_instances_3d
    assert truth.bboxes_3d.tensor.shape[1] == 9 and len(truth.labels_3d) == len(truth.bboxes_3d)
