"""The 18 numbers of vehicle motion, by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from qdbev.data.geometry import rigid
from qdbev.data.nuscenes.motion import can_bus_vector, message_motion, pose_messages, pose_motion


def message(utime: int, speed: float) -> dict[str, object]:
    return {"utime": utime, "accel": [0.1, 0.2, 9.8], "rotation_rate": [0, 0, 0.3], "vel": [speed, 0, 0],
            "pos": [1, 2, 0], "orientation": [1, 0, 0, 0]}  # fmt: skip


def test_first_message_later_than_the_frame() -> None:
    messages = [message(100, 1), message(200, 2), message(300, 3)]
    assert message_motion(messages, timestamp_us=99)[6] == 1
    assert message_motion(messages, timestamp_us=100)[6] == 2
    assert message_motion(messages, timestamp_us=200).tolist() == [0.1, 0.2, 9.8, 0, 0, 0.3, 3, 0, 0]
    assert message_motion(messages, timestamp_us=300)[6] == 3  # none is later: the last
    assert message_motion([], timestamp_us=99).tolist() == [0] * 9


@pytest.mark.parametrize("time", [50, 100, 150, 299, 300, 1000])
def test_it_is_the_converters_own_loop(time: int) -> None:
    """BEVFormer, ``tools/data_converter/nuscenes_converter.py``, in its own words."""
    messages = [message(100, 1), message(200, 2), message(300, 3)]
    pose_list = [dict(each) for each in messages]
    last_pose = pose_list[0]
    for pose in pose_list:
        if pose["utime"] > time:
            break
        last_pose = pose
    for name in ("utime", "pos", "orientation"):
        last_pose.pop(name)
    converted = [value for key in last_pose for value in pose[key]]
    assert message_motion(messages, timestamp_us=time).tolist() == converted


def test_where_messages_come_from(tmp_path: Path) -> None:
    assert pose_messages(tmp_path, scene="scene-0001") is None  # no CAN bus expansion at all
    (tmp_path / "can_bus").mkdir()
    (tmp_path / "can_bus/scene-0002_pose.json").write_text(json.dumps([message(5, 1)]))
    assert pose_messages(tmp_path, scene="scene-0001") is None
    assert pose_messages(tmp_path, scene="scene-0002") == [message(5, 1)]
    assert pose_messages(tmp_path, scene="scene-0161") == []  # on the devkit's list of scenes without CAN data


def test_motion_of_a_circle() -> None:
    """10 m/s on a circle of 50 m: rotation rate 0.2 rad/s, centripetal 2 m/s2 to the left, forward speed 10."""
    rate, step_s, poses = 0.2, 0.01, []
    for frame in range(7):
        angle = rate * step_s * frame
        half = (angle + 1.0) / 2  # heading starts at 1 rad
        centre = 50 * np.array([math.sin(angle + 1.0), -math.cos(angle + 1.0), 0])
        poses.append(rigid([math.cos(half), 0, 0, math.sin(half)], translation=centre))
    motion = pose_motion(np.stack(poses), timestamps_us=[int(1e6 * step_s * frame) for frame in range(7)])
    np.testing.assert_allclose(motion[3], [0, 2, 9.81, 0, 0, 0.2, 10, 0, 0], atol=1e-3)


def test_one_frame_stands_still() -> None:
    assert pose_motion(np.eye(4)[None], timestamps_us=[5]).tolist() == [[0, 0, 9.81, 0, 0, 0, 0, 0, 0]]


@pytest.mark.parametrize(("heading", "degrees"), [(0, 0), (90, 90), (-90, 270), (-1, 359), (179, 179), (181, 181)])
def test_yaw_is_in_a_full_turn(heading: float, degrees: float) -> None:
    half = math.radians(heading) / 2
    vector = can_bus_vector([1, 2, 3], rotation=[math.cos(half), 0, 0, math.sin(half)], motion=np.arange(9.0))
    assert vector.shape == (18,)
    assert vector[:3].tolist() == [1, 2, 3] and vector[7:16].tolist() == list(range(9))
    assert vector[17] == pytest.approx(degrees) and vector[16] == pytest.approx(math.radians(degrees))
