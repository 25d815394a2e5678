"""Rotation of the history map and shift of its reference points."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qdbev.detectors.bevformer.frames.ego_motion import rotate, shift


def turned(bev, degrees, *, centre=None, nearest=True):
    return rotate(bev, degrees_B=torch.tensor([float(degrees)]), centre_px=centre, nearest=nearest)


@pytest.mark.parametrize("nearest", [True, False])
def test_no_rotation_is_the_identity(nearest):
    bev = torch.randn(1, 3, 5, 7)
    torch.testing.assert_close(turned(bev, 0, nearest=nearest), bev, atol=1e-5, rtol=0)
    torch.testing.assert_close(turned(bev, 360, centre=(100.0, 100.0), nearest=True), bev)


@pytest.mark.parametrize("nearest", [True, False])
def test_ninety_degrees_is_a_quarter_turn_counter_clockwise_on_the_screen(nearest):
    bev = torch.randn(1, 2, 6, 6)
    expected = torch.rot90(bev, 1, dims=(2, 3))
    torch.testing.assert_close(turned(bev, 90, nearest=nearest), expected, atol=1e-4, rtol=0)


def test_half_turn_about_a_corner_empties_the_map():
    bev = torch.ones(1, 1, 4, 4)
    assert turned(bev, 180, centre=(0.0, 0.0)).abs().max() == 0
    assert torch.equal(turned(bev, 180, centre=(2.0, 2.0)), bev)


def test_a_pixel_moves_where_geometry_says():
    """A point at (x, y) from the centre comes to rest at the angle minus the rotation, in (column, row) coordinates."""
    bev = torch.zeros(1, 1, 21, 21)
    bev[0, 0, 10, 18] = 1  # 8 columns right of the middle
    row, column = divmod(int(turned(bev, 30, nearest=False).flatten().argmax()), 21)
    assert column - 10 == round(8 * math.cos(math.radians(30)))
    assert row - 10 == round(-8 * math.sin(math.radians(30)))


def test_each_sample_turns_by_its_own_angle():
    bev = torch.randn(1, 2, 5, 5).expand(2, -1, -1, -1)
    both = rotate(bev, degrees_B=torch.tensor([17.0, -40.0]), centre_px=None, nearest=False)
    assert torch.equal(both[:1], turned(bev[:1], 17, nearest=False))
    assert torch.equal(both[1:], turned(bev[:1], -40, nearest=False))


def can_bus(dx, dy, yaw):
    values = torch.zeros(1, 18)
    values[0, 0], values[0, 1], values[0, 16] = dx, dy, yaw
    return values


def test_driving_ahead_shifts_along_y():
    # heading north-east, moving north-east by sqrt(2) m: y is ahead; grid of 50 x 25 cells of 2 m x 4 m
    moved = shift(can_bus(1.0, 1.0, math.pi / 4), cell_m=(2.0, 4.0), rows=25, columns=50)
    torch.testing.assert_close(moved, torch.tensor([[0.0, math.sqrt(2) / 100]]), atol=1e-7, rtol=0)


def test_moving_to_the_right_shifts_along_x():
    moved = shift(can_bus(0.0, -3.0, 0.0), cell_m=(2.0, 4.0), rows=25, columns=50)  # facing east, moving south
    torch.testing.assert_close(moved, torch.tensor([[3.0 / 100, 0.0]]), atol=1e-7, rtol=0)


@given(st.floats(0, 6), st.floats(-5, 5), st.floats(-5, 5))
def test_the_shift_keeps_the_distance(yaw, dx, dy):
    moved = shift(can_bus(dx, dy, yaw), cell_m=(1.0, 1.0), rows=1, columns=1)
    assert float(moved.norm()) == pytest.approx(math.hypot(dx, dy), abs=1e-4)


def test_standing_still_is_no_shift():
    assert shift(can_bus(0.0, 0.0, 1.0), cell_m=(1.0, 1.0), rows=4, columns=4).tolist() == [[0.0, 0.0]]
