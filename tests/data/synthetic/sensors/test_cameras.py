"""The rig at any image size, held against the real numbers of nuScenes."""

from __future__ import annotations

import numpy as np

from qdbev.data.synthetic.sensors.cameras import CHANNELS, build_rig
from qdbev.data.synthetic.tokens import generator


def test_focal_length_follows_the_width_and_pixels_are_square() -> None:
    for width, height in ((176, 96), (800, 450), (1600, 900)):
        front = build_rig(generator("rig"), image_size_px=(width, height))[0]
        assert front.intrinsic is not None
        assert front.intrinsic[0, 0] == front.intrinsic[1, 1]
        np.testing.assert_allclose(front.intrinsic[0, 0], 1266.42 * width / 1600, rtol=0.02)
        np.testing.assert_allclose(front.intrinsic[1, 2] / height, 491.51 / 900)


def test_cameras_look_where_their_names_say() -> None:
    yaws = {
        s.channel: np.rad2deg(np.arctan2(s.rotation[1, 2], s.rotation[0, 2]))
        for s in build_rig(generator("rig"), image_size_px=(176, 96))[:6]
    }
    expected = {
        "CAM_FRONT": 0,
        "CAM_FRONT_RIGHT": -56,
        "CAM_FRONT_LEFT": 55,
        "CAM_BACK": 180,
        "CAM_BACK_LEFT": 108,
        "CAM_BACK_RIGHT": -110,
    }
    assert tuple(yaws) == CHANNELS
    for channel, yaw in expected.items():
        assert abs((yaws[channel] - yaw + 180) % 360 - 180) < 3, channel


def test_the_lidar_stands_upright_its_second_axis_ahead() -> None:
    lidar = build_rig(generator("rig"), image_size_px=(176, 96))[-1]
    np.testing.assert_allclose(lidar.rotation @ np.eye(3), [[0, 1, 0], [-1, 0, 0], [0, 0, 1]], atol=0.03)
