"""Turning the lidar frame: what the network is told stays one consistent world."""

from __future__ import annotations

import math

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmdet3d.structures import LiDARInstance3DBoxes

from qdbev.data.geometry import rotation_matrices
from qdbev.data.nuscenes.motion import can_bus_vector
from qdbev.data.queues.turning import turn_boxes, turn_can_bus, turn_projection

ANGLE = st.floats(-3.0, 3.0)


@given(angle=ANGLE, seed=st.integers(0, 1000))
def test_boxes_turn_as_in_mmdet3d(angle: float, seed: int) -> None:
    boxes = np.random.default_rng(seed).normal(size=(5, 9))
    boxes[:, 3:6] = np.abs(boxes[:, 3:6])
    theirs = LiDARInstance3DBoxes(torch.from_numpy(boxes), box_dim=9)
    theirs.rotate(angle)
    np.testing.assert_allclose(turn_boxes(boxes, angle=angle), theirs.tensor, atol=1e-5)


@given(angle=ANGLE, seed=st.integers(0, 1000))
def test_a_turned_point_has_its_old_pixel(angle: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    lidar2img, boxes = rng.normal(size=(6, 4, 4)), rng.normal(size=(4, 9))
    before = lidar2img @ np.concatenate([boxes[:, :3], np.ones((4, 1))], axis=1).T
    turned = turn_boxes(boxes, angle=angle)
    after = turn_projection(lidar2img, angle=angle) @ np.concatenate([turned[:, :3], np.ones((4, 1))], axis=1).T
    np.testing.assert_allclose(after, before, atol=1e-9)


def official_shift(can_bus: np.ndarray) -> np.ndarray:
    """BEVFormer's metres to the right and ahead that the vehicle has moved (spec: section 3, step 3)."""
    length, direction = math.hypot(can_bus[0], can_bus[1]), math.atan2(can_bus[1], can_bus[0])
    return length * np.array([math.sin(can_bus[16] - direction), math.cos(can_bus[16] - direction)])


@given(angle=ANGLE, heading=st.floats(-3.1, 3.1), dx=st.floats(0.1, 5), dy=st.floats(-5, 5))
def test_shift_of_the_history_turns_with_the_grid(angle: float, heading: float, dx: float, dy: float) -> None:
    rotation = [math.cos(heading / 2), 0, 0, math.sin(heading / 2)]
    can_bus = can_bus_vector([dx, dy, 0], rotation=rotation, motion=np.zeros(9)).astype(np.float32)
    cos, sin = math.cos(angle), math.sin(angle)
    expected = np.array([[cos, -sin], [sin, cos]]) @ official_shift(can_bus)
    np.testing.assert_allclose(official_shift(turn_can_bus(can_bus, angle=angle)), expected, atol=1e-5)


@given(angle=ANGLE, heading=st.floats(-3.1, 3.1), pitch=st.floats(-0.1, 0.1), seed=st.integers(0, 1000))
def test_motion_in_the_world_stays(angle: float, heading: float, pitch: float, seed: int) -> None:
    """Pose times velocity is the velocity in the world, which turning the body axes does not change."""
    turn = np.array([math.cos(heading / 2), 0, 0, math.sin(heading / 2)])
    tilt = np.array([math.cos(pitch / 2), 0, math.sin(pitch / 2), 0])
    rotation = [turn[0] * tilt[0], -turn[3] * tilt[2], turn[0] * tilt[2], turn[3] * tilt[0]]
    np.testing.assert_allclose(
        rotation_matrices(rotation), rotation_matrices(turn) @ rotation_matrices(tilt), atol=1e-9
    )
    motion = np.random.default_rng(seed).normal(size=9)
    before = can_bus_vector([1, 2, 3], rotation=rotation, motion=motion).astype(np.float32)
    after = turn_can_bus(before, angle=angle)
    for start in (7, 10, 13):
        world = [rotation_matrices(value[3:7]) @ value[start : start + 3] for value in (before, after)]
        np.testing.assert_allclose(world[0], world[1], atol=1e-5)
    assert before[:3].tolist() == after[:3].tolist() and before[17] == after[17]
    assert 0 <= after[16] <= np.float32(2 * math.pi)
    level = can_bus_vector([1, 2, 3], rotation=list(turn), motion=motion).astype(np.float32)
    turned = turn_can_bus(level, angle=angle)
    again = can_bus_vector([1, 2, 3], rotation=turned[3:7].tolist(), motion=motion)
    assert math.cos(again[16] - turned[16]) > 1 - 1e-6
