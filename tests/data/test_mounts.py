"""Cameras by where they look: axes by hand, and nuScenes' own projections unchanged."""

from __future__ import annotations

import numpy as np
import pytest

from qdbev.data.mounts import evenly_around, lidar_to_images, looking, pose
from qdbev.data.nuscenes.rig import nuscenes_lidar2img

EGO = np.eye(4)


def seen(point: list[float], **options: float) -> list[float]:
    """Pixel x, y and depth of a point of the vehicle's frame in a camera 2 m above its origin."""
    mount = looking("A", position_m=(0, 0, 2), **{"heading_degrees": 0.0, "view_degrees": 90.0, **options})
    x, y, depth, _ = lidar_to_images([mount], lidar2ego=EGO, image_size_px=(1600, 900))[0] @ [*point, 1]
    return [x / depth, y / depth, depth]


def test_what_a_camera_sees_where() -> None:
    assert seen([10, 0, 2]) == pytest.approx([800, 450, 10])
    assert seen([10, 5, 2]) == pytest.approx([400, 450, 10])  # to the left; 90 degrees: focal length 800
    assert seen([10, 0, 0]) == pytest.approx([800, 450 + 160, 10])  # below
    assert seen([0, 10, 2], heading_degrees=90) == pytest.approx([800, 450, 10])
    assert seen([-10, 0, 2], heading_degrees=180) == pytest.approx([800, 450, 10])
    ahead, down = 10 * np.cos(np.pi / 6), 10 * np.sin(np.pi / 6)
    assert seen([ahead, 0, 2 - down], tilt_degrees=30) == pytest.approx([800, 450, 10])
    assert seen([10, 10 * np.tan(np.pi / 6), 2], view_degrees=60)[0] == pytest.approx(0)


def test_cameras_that_nobody_described_look_to_all_sides() -> None:
    mounts = evenly_around(("A", "B", "C", "D"))
    ahead = [pose(mount.translation, rotation=mount.rotation)[:3, 2].round(6).tolist() for mount in mounts]
    assert ahead == [[1, 0, 0], [0, -1, 0], [-1, 0, 0], [0, 1, 0]]  # the second to the right


def test_nuscenes_projections_are_as_they_were() -> None:
    matrices = nuscenes_lidar2img(image_size_px=(1600, 900))
    # 2026-11-30, before other rigs came: 20 m ahead of the LiDAR in scene-0061's front camera
    x, y, depth, _ = matrices[0] @ [0, 20, 0, 1]
    assert [x / depth, y / depth, depth] == pytest.approx(
        [821.6367927678644, 494.59333021978205, 19.237420157393014], abs=1e-9
    )
