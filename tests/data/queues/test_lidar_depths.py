"""Depths of the LiDAR in cut images: which points count, and where they land."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qdbev.data.nuscenes.records import read_samples
from qdbev.data.queues.lidar_depths import nearest_depths, points_to_pixels, read_points, refuse_missing_points
from qdbev.data.queues.lifting import LiftDataset
from tests.conftest import TINY_VERSION

IMAGE = {
    "lidar2cam": np.array([[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]]),  # looks along y
    "cam2img": np.array([[10.0, 0, 50], [0, 10, 30], [0, 0, 1]]),
    "width": 100,
    "height": 60,
}


def test_points_land_where_the_camera_sees_them() -> None:
    points = np.array([[0.0, 2, 0], [2, 4, -1], [0, -3, 0], [-9.85, 2, 0], [9.85, 2, 0], [0, 2, 5.85]])
    pixels = points_to_pixels(points, image=IMAGE, scale=0.5, size_px=(32, 20))
    # (50, 30) and (55, 32.5), halved, less 9 at the left and 10 at the top; the others lie behind or at the border
    np.testing.assert_allclose(pixels, [[16, 5, 2], [18.5, 6.25, 4]])


def test_pixels_are_cut_off_and_squares_keep_the_nearest() -> None:
    points = np.array([[0.9, 0.9, 5.0], [0.1, 0.1, 6.0], [1.5, 0, 5.5], [-0.9, 1, 4.0], [4, 0, 1.0], [-1.1, 0, 1.0]])
    assert nearest_depths(points, size_px=(4, 2), stride=2).tolist() == [[4.0, 0.0]]
    assert nearest_depths(points[:3], size_px=(4, 2), stride=2).tolist() == [[5.5, 0.0]]
    assert nearest_depths(points[:0], size_px=(4, 2), stride=2).tolist() == [[0.0, 0.0]]


def test_a_file_that_is_missing_or_broken_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"LiDAR file .*lost\.bin cannot be read .*model\.depth\.weight=0"):
        read_points(tmp_path / "lost.bin")
    (tmp_path / "cut.bin").write_bytes(np.zeros(7, dtype=np.float32).tobytes())
    with pytest.raises(ValueError, match="holds 7 numbers, not 5 a point"):
        read_points(tmp_path / "cut.bin")
    np.arange(10, dtype=np.float32).tofile(tmp_path / "good.bin")
    assert read_points(tmp_path / "good.bin").tolist() == [[0, 1, 2], [5, 6, 7]]


def test_training_items_bring_depths(tiny_synthetic: Path) -> None:
    samples = read_samples(tiny_synthetic, version=TINY_VERSION)
    options: dict[str, Any] = {"size_px": (160, 64), "scale": 1.0, "mean": (0, 0, 0), "std": (1, 1, 1), "to_rgb": True}
    train = LiftDataset(samples, root=tiny_synthetic, train=True, depth_stride=16, **options)
    depths = train[0]["data_samples"].metainfo["depth_m"]
    assert depths.shape == (6, 4, 10) and depths.dtype == np.float32
    seen = depths[depths > 0]
    assert len(seen) > 60 and seen.min() > 1 and seen.max() < 120
    assert np.median(depths[:, -1][depths[:, -1] > 0]) < np.median(depths[:, 1][depths[:, 1] > 0])  # ground comes near
    still = LiftDataset(samples, root=tiny_synthetic, train=False, depth_stride=16, **options)
    assert "depth_m" not in still[0]["data_samples"].metainfo


def test_a_training_says_at_once_that_points_are_missing(tmp_path: Path) -> None:
    for name, size in (("good", 5), ("empty", 0)):
        np.ones(size, dtype=np.float32).tofile(tmp_path / f"{name}.bin")
    good, empty, lost = ({"lidar_path": f"{name}.bin"} for name in ("good", "empty", "lost"))
    refuse_missing_points([good, good], root=tmp_path)
    with pytest.raises(ValueError, match=r"2 of 3 LiDAR files .* first empty\.bin; .*model\.depth\.weight=0"):
        refuse_missing_points([good, empty, lost], root=tmp_path)
    with pytest.raises(ValueError, match=r"data\.rig has no LiDAR in whose frame boxes are; .*model\.depth\.weight=0"):
        refuse_missing_points([{"lidar_path": ""}], root=tmp_path)
    np.zeros(10, dtype=np.float32).tofile(tmp_path / "dummy.bin")
    with pytest.raises(ValueError, match=r"nothing but zeros.*model\.depth\.weight=0"):
        read_points(tmp_path / "dummy.bin")
