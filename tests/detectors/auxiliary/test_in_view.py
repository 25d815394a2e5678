"""Which objects a camera has in its image, and where."""

from __future__ import annotations

import math

import torch

from qdbev.detectors.auxiliary import gather_objects, in_view, mean_squared
from qdbev.detectors.auxiliary.in_view import camera_position, focal_length_px
from qdbev.detectors.images.frame_batch import FrameBatch


def camera_at(x, y, *, focal=100.0, width=200, height=100):
    """(4, 4) of a camera at (x, y, 0) that looks along y."""
    lidar_to_camera = torch.tensor([[1.0, 0, 0, -x], [0, 0, -1, 0], [0, 1, 0, -y], [0, 0, 0, 1]])
    intrinsic = torch.tensor([[focal, 0, width / 2, 0], [0, focal, height / 2, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    return intrinsic @ lidar_to_camera


def frames_of(matrix, *, width=200, height=100):
    size = torch.tensor([[float(width), float(height)]])
    return FrameBatch(("a",), (0,), (False,), torch.zeros(1, 18), matrix[None, None], size)


def one_box(x, y, *, yaw=0.0, bottom=-0.5, height=1.0):
    box = torch.tensor([[x, y, bottom, 4.0, 2.0, height, yaw, 0.0, 0.0]])
    return gather_objects([box], [torch.tensor([3])])


def test_camera_geometry_comes_back_from_the_matrix():
    matrix = camera_at(1.5, -2.0, focal=321.0)[None]
    torch.testing.assert_close(focal_length_px(matrix), torch.tensor([321.0]), atol=1e-2, rtol=0)
    torch.testing.assert_close(camera_position(matrix), torch.tensor([[1.5, -2.0, 0.0]]), atol=1e-4, rtol=0)


def test_an_object_ahead_is_in_view_by_hand():
    # 10 m ahead and 5 m right: u = 100 + 100 * .5 = 150, v = 50; cells of 8 px
    view = in_view(one_box(5.0, 10.0, yaw=1.0), frames_of(camera_at(0.0, 0.0)), rows=12, columns=25)
    assert view.cells_V2.tolist() == [[18, 6]]
    assert math.isclose(float(view.depth_V), 10, abs_tol=1e-4)
    assert math.isclose(float(view.angle_V), 1.0 - math.atan2(10, 5), abs_tol=1e-5)
    assert math.isclose(float(view.sigma_V), 100 * 2 / 10 / 8 / 2, rel_tol=0.05)


def test_a_centre_stays_in_its_cell_under_autocast():
    frames = frames_of(camera_at(0.3, -0.7, focal=321.0, width=704, height=256), width=704, height=256)
    box = one_box(5.37, 31.9, yaw=0.7)
    precise = in_view(box, frames, rows=128, columns=352)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        view = in_view(box, frames, rows=128, columns=352)
    for name in ("cells_V2", "depth_V", "sigma_V", "angle_V"):
        assert torch.equal(getattr(view, name), getattr(precise, name)), name


def test_objects_behind_or_beside_the_image_are_not_in_view():
    frames = frames_of(camera_at(0.0, 0.0))
    for x, y in ((0.0, -10.0), (11.0, 10.0), (0.0, 0.5)):
        assert len(in_view(one_box(x, y), frames, rows=12, columns=25).object_V) == 0


def test_objects_remember_their_sample():
    objects = gather_objects([torch.zeros(2, 9), torch.zeros(1, 9)], [torch.tensor([1, 2]), torch.tensor([3])])
    assert objects.sample_O.tolist() == [0, 0, 1]
    assert objects.labels_O.tolist() == [1, 2, 3]


def test_the_centre_is_half_the_height_above_the_bottom():
    assert one_box(0.0, 0.0, bottom=-2.0, height=3.0).centres_O3.tolist() == [[0.0, 0.0, -0.5]]


def test_rows_without_a_target_do_not_count():
    predicted, target = torch.zeros(3, 2), torch.tensor([[1.0, 2.0], [math.nan, 0.0], [0.0, 1.0]])
    assert float(mean_squared(predicted, target)) == (1 + 4 + 1) / 2
    assert float(mean_squared(predicted[:0], target[:0])) == 0
