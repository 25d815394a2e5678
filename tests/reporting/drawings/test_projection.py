"""Corners and clipped segments: hand-computed places, an independent clipping rule, boxes behind the camera."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qdbev.reporting.drawings.projection import NEAR_M, box_corners, box_segments, ground_corners, project_segments

# A camera at the origin of a nuScenes LiDAR frame that looks along y (forward); x is right, z is up.
# u = 50 + 100 x / y, v = 40 - 100 z / y, depth = y
FORWARD = np.array([[100.0, 50.0, 0, 0], [0, 40.0, -100.0, 0], [0, 1.0, 0, 0], [0, 0, 0, 1.0]])
BOX = np.array([[0.0, 10.0, -1.0, 4.0, 2.0, 1.5, 0.0, 0.0, 0.0]])


def test_corners_of_a_box_along_x():
    corners = box_corners(BOX)[0]
    assert corners[:4].tolist() == [[2, 11, -1], [2, 9, -1], [-2, 9, -1], [-2, 11, -1]]
    assert corners[4:, :2].tolist() == corners[:4, :2].tolist()
    assert set(corners[4:, 2]) == {0.5}


def test_a_quarter_turn_is_counter_clockwise():
    """Heading +x turned by 90 degrees is heading +y: the front of a 4 m long box then lies at y = 12."""
    turned = BOX.copy()
    turned[0, 6] = np.pi / 2
    np.testing.assert_allclose(ground_corners(turned)[0], [[-1, 12], [1, 12], [1, 8], [-1, 8]], atol=1e-12)


def test_a_box_has_twelve_edges_of_the_right_lengths_and_a_heading_line():
    segments = box_segments(BOX)[0]
    lengths = np.linalg.norm(segments[:, 1] - segments[:, 0], axis=1)
    assert sorted(lengths.tolist()) == [1.5] * 4 + [2.0] * 5 + [4.0] * 4
    assert segments[12].tolist() == [[0, 10, -1], [2, 10, -1]]


def test_a_segment_in_view_lands_where_computed_by_hand():
    segments = np.array([[[1.0, 10.0, -1.0], [-1.0, 20.0, 0.0]]])
    pieces = project_segments(segments, lidar2img=FORWARD, width_px=100, height_px=80)
    np.testing.assert_allclose(pieces, [[[60.0, 50.0], [45.0, 40.0]]])


def test_a_segment_through_the_camera_is_cut_at_the_near_plane():
    """From 10 m ahead to 10 m behind, 1 m below: the cut end lies below the image's border, not above the horizon."""
    segments = np.array([[[0.0, 10.0, -1.0], [0.0, -10.0, -1.0]]])
    pieces = project_segments(segments, lidar2img=FORWARD, width_px=100, height_px=80, margin_px=1e9)
    np.testing.assert_allclose(pieces[0, 0], [50.0, 50.0])
    np.testing.assert_allclose(pieces[0, 1], [50.0, 40.0 + 100.0 / NEAR_M])
    bounded = project_segments(segments, lidar2img=FORWARD, width_px=100, height_px=80, margin_px=8.0)
    np.testing.assert_allclose(bounded[0, 1], [50.0, 88.0])


@pytest.mark.parametrize(
    "segment",
    [
        [[0.0, -5.0, 0.0], [1.0, -9.0, 0.0]],  # behind
        [[30.0, 10.0, 0.0], [40.0, 10.0, 0.0]],  # to the right of the image
        [[0.0, NEAR_M / 2, 0.0], [0.0, 0.0, 0.0]],  # nearer than the near plane
        [[-20.0, 10.0, 30.0], [0.0, 10.0, 50.0]],  # above
    ],
)
def test_what_the_camera_does_not_see_is_left_out(segment):
    assert project_segments(np.array([segment]), lidar2img=FORWARD, width_px=100, height_px=80).shape == (0, 2, 2)


def test_no_segments_give_no_pieces():
    assert project_segments(np.zeros((0, 2, 3)), lidar2img=FORWARD, width_px=10, height_px=10).shape == (0, 2, 2)
    assert box_segments(np.zeros((0, 9))).shape == (0, 13, 2, 3)


coordinate = st.floats(min_value=-30, max_value=30, allow_nan=False, width=32)
point = st.tuples(coordinate, coordinate, coordinate)


@given(point, point)
def test_clipping_agrees_with_testing_many_points_of_the_segment(start, end):
    """Independent rule: sample the segment, project each sample, keep those inside; the piece spans exactly them."""
    segment = np.array([start, end], dtype=np.float64)
    samples = segment[0] + np.linspace(0, 1, 400)[:, None] * (segment[1] - segment[0])
    projected = np.c_[samples, np.ones(400)] @ FORWARD[:3].T
    depth = projected[:, 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        pixels = projected[:, :2] / depth[:, None]
    inside = (depth >= NEAR_M) & (pixels >= 0).all(axis=1) & (pixels <= [100, 80]).all(axis=1)
    pieces = project_segments(segment[None], lidar2img=FORWARD, width_px=100, height_px=80, margin_px=0.0)
    if len(pieces):
        assert (pieces > -1e-6).all()
        assert (pieces < np.array([100, 80]) + 1e-6).all()
        low, high = pieces[0].min(axis=0) - 1e-6, pieces[0].max(axis=0) + 1e-6
        assert ((pixels[inside] >= low) & (pixels[inside] <= high)).all()
    else:
        assert inside.sum() <= 1  # at most a touch at a border
