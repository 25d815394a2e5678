"""Points on camera images."""

from __future__ import annotations

import torch

from qdbev.detectors.images.projection import project, project_each


def projected(point, matrix=None):
    matrix = torch.eye(4) if matrix is None else matrix
    uv, mask = project(
        torch.tensor([[point]]), lidar2img_BN44=matrix[None, None], image_size_B2=torch.tensor([[10.0, 20.0]])
    )
    return uv[0, 0, 0, 0].tolist(), bool(mask[0, 0, 0, 0])


def test_projection_divides_by_depth_and_by_the_image_size():
    assert projected([10.0, 10.0, 2.0]) == ([0.5, 0.25], True)


def test_the_border_is_outside():
    assert not projected([10.0, 5.0, 1.0])[1]
    assert not projected([0.0, 5.0, 1.0])[1]
    assert projected([9.99, 5.0, 1.0])[1]


def test_behind_the_camera_is_not_seen():
    assert not projected([-5.0, -5.0, -1.0])[1]
    assert not projected([1e-6, 1e-6, 1e-5])[1]


def test_projection_stays_in_float32_under_autocast():
    point = torch.tensor([[[10.123456, 3.3, 2.0]]])
    arguments = {"lidar2img_BN44": torch.eye(4)[None, None], "image_size_B2": torch.tensor([[10.0, 20.0]])}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside, _ = project(point, **arguments)
    assert torch.equal(inside, project(point, **arguments)[0])


def test_each_samples_own_points_land_where_pillars_do():
    generator = torch.Generator().manual_seed(0)
    points, matrices = torch.randn(2, 5, 3, generator=generator), torch.randn(2, 3, 4, 4, generator=generator)
    size = torch.tensor([[10.0, 20.0], [30.0, 40.0]])
    uv, mask = project_each(points, lidar2img_BN44=matrices, image_size_B2=size)
    for sample in range(2):
        single = slice(sample, sample + 1)
        expected, seen = project(points[single], lidar2img_BN44=matrices[single], image_size_B2=size[single])
        torch.testing.assert_close(uv[single], expected, rtol=1e-5, atol=1e-5)
        assert torch.equal(mask[single], seen)
