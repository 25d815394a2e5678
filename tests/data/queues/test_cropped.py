"""Scaled, cut, mirrored images and a turned world, as PETR takes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qdbev.data.nuscenes.records import read_samples
from qdbev.data.queues.cropped import CropMultiView, CroppedDataset, moved_boxes, moved_projection

RANGE = (-51.2, -51.2, -5.0, 51.2, 51.2, 3.0)
IMAGE = {"height_px": 48, "width_px": 128, "pad_divisor": 32, "mean": (0, 0, 0), "std": (1, 1, 1), "to_rgb": False}


def cut(image: np.ndarray, *, crop: CropMultiView, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    results = {"img": [image], "lidar2img": np.eye(4)[None], "generator": np.random.default_rng(seed)}
    results = crop(results)
    return results["img"][0], results["lidar2img"][0]


def test_the_official_cut_keeps_rows_280_to_791_of_the_scaled_image() -> None:
    rows = np.repeat(np.arange(900, dtype=np.uint8)[:, None, None] // 4, 1600, 1).repeat(3, 2)
    image, matrix = cut(rows, crop=CropMultiView(height_px=512, width_px=1408))
    assert image.shape == (512, 1408, 3) and image.dtype == np.uint8
    np.testing.assert_allclose(matrix @ [1600, 900, 1, 1], [1408, 512, 1, 1])
    assert image[0, 0, 0] == pytest.approx(rows[round(280 / 0.88), 0, 0], abs=1)


def test_pixels_become_whole_numbers_before_pillow_scales_them() -> None:
    image, _ = cut(np.full((48, 128, 3), 3.9, dtype=np.float32), crop=CropMultiView(height_px=48, width_px=128))
    assert (image == 3).all()


def test_a_drawn_cut_is_where_its_matrix_says() -> None:
    """A white spot lands where its pixel is projected, mirrored or not; what is missing at the right is black."""
    image = np.zeros((100, 160, 3), dtype=np.uint8)
    image[60:64, 40:44] = 255
    crop = CropMultiView(height_px=48, width_px=128, scales=(0.6, 0.9), flip_probability=0.5)
    flips = set()
    for seed in range(8):
        seen, matrix = cut(image, crop=crop, seed=seed)
        x, y = (matrix @ [42, 62, 1, 1])[:2]
        rows, columns = np.nonzero(seen[..., 0] > 128)
        assert abs(columns.mean() + 0.5 - x) < 1.5 and abs(rows.mean() + 0.5 - y) < 1.5
        flips.add(bool(matrix[0, 0] < 0))
    assert flips == {True, False}
    bright, _ = cut(np.full_like(image, 200), crop=CropMultiView(height_px=48, width_px=128, scales=(0.6, 0.6)))
    assert (bright[:, 96:] == 0).all() and (bright[:, :96] == 200).all()  # 160 x 0.6 = 96


def test_a_moved_world_looks_the_same_to_the_cameras() -> None:
    box = np.array([[10.0, 3.0, -1.0, 4.0, 2.0, 1.5, 0.3, 5.0, 1.0]])
    projection = np.random.default_rng(0).normal(size=(6, 4, 4))
    moved = moved_boxes(box, angle=0.4, scale=1.05)
    seen = moved_projection(projection, angle=0.4, scale=1.05) @ [*moved[0, :3], 1]
    np.testing.assert_allclose(seen, projection @ [*box[0, :3], 1], atol=1e-9)
    assert moved[0, 6] == pytest.approx(0.7)
    np.testing.assert_allclose(moved[0, 3:6], box[0, 3:6] * 1.05)
    assert np.hypot(*moved[0, 7:9]) == pytest.approx(1.05 * np.hypot(5, 1))


@pytest.fixture
def samples(tiny_synthetic: Path) -> list[dict]:
    return read_samples(tiny_synthetic, version="v1.0-trainval", scenes=["scene-0003"], cache=None, progress=False)


def test_items_of_evaluation_and_training(samples: list[dict], tiny_synthetic: Path) -> None:
    still = CroppedDataset(samples, root=tiny_synthetic, train=False, point_cloud_range=RANGE, **IMAGE)
    item = still.arrays(0, generator=np.random.default_rng(0))
    assert item["img"].shape == (1, 6, 3, 64, 128)  # 48 rows and padding
    assert (item["frames"][0]["img_shape"], item["frames"][0]["valid_shape"]) == ((64, 128), (48, 128))
    assert (item["img"][..., 48:, :] == 0).all()
    train = CroppedDataset(samples, root=tiny_synthetic, train=True, point_cloud_range=RANGE, **IMAGE)
    first, again, other = (train.arrays(1, generator=np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first["img"], again["img"]) and np.array_equal(first["boxes"], again["boxes"])
    assert not np.array_equal(first["boxes"], other["boxes"])
    assert not np.array_equal(first["frames"][0]["lidar2img"], other["frames"][0]["lidar2img"])
