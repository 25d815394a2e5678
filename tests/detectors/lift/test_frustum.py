"""Points of a frustum and the cells that they lie in."""

from __future__ import annotations

import torch

from qdbev.detectors.lift import VoxelGrid, cells_of, frustum, seen_cells, times_depth

GRID = VoxelGrid(low_m=(-2.0, -1.0, -5.0), cell_m=(1.0, 1.0, 8.0), rows=2, columns=4)


def cell(*point: float) -> int:
    return int(cells_of(torch.tensor(point).view(1, 1, 1, 3), grid=GRID))


def test_outermost_pixels_stand_for_the_outermost_of_the_image() -> None:
    points = frustum(image_px=(32, 48), stride=16, depths_m=[1.0, 2.5])
    assert points.shape == (2, 2, 3, 3)
    assert points[1, :, :, 0].tolist() == [[0.0, 23.5, 47.0]] * 2
    assert points[0, :, 0, 1].tolist() == [0.0, 31.0]
    assert points[:, 0, 0, 2].tolist() == [1.0, 2.5]
    assert times_depth(points)[1, 1, 2].tolist() == [47.0 * 2.5, 31.0 * 2.5, 2.5]


def test_cells_go_row_by_row_along_y() -> None:
    assert [cell(-1.5, -0.5, 0), cell(1.5, -0.5, 0), cell(-1.5, 0.5, 0), cell(1.99, 0.99, 0)] == [0, 3, 4, 7]


def test_cells_are_cut_off_towards_zero_and_not_rounded_down() -> None:
    """A point up to one cell below the lower border is in the first cell; rounding down would leave it out."""
    assert cell(-2.9, -0.5, 0) == 0 and cell(-3.1, -0.5, 0) == -1
    assert cell(-1.5, -1.9, 0) == 0 and cell(-1.5, -2.1, 0) == -1
    assert cell(-1.5, -0.5, -12.9) == 0 and cell(-1.5, -0.5, -13.1) == -1  # along z a cell is 8 m
    assert cell(2.0, 0, 0) == cell(0, 1.0, 0) == cell(0, 0, 3.0) == -1  # above, nothing is added


def test_samples_have_cells_of_their_own_and_cameras_share_them() -> None:
    places = torch.tensor([[-1.5, -0.5, 0], [9.0, 0, 0]]).expand(2, 3, 2, 3).clone()
    places[:, 1, 0, 0] = 1.5
    cells = cells_of(places, grid=GRID)
    assert cells[..., 0].tolist() == [[0, 3, 0], [8, 11, 8]]
    assert (cells[..., 1] == -1).all()
    seen = seen_cells(cells[..., None], grid=GRID)
    assert seen.shape == (2, 3, 8, 1)
    assert seen[0, :, :, 0].nonzero().tolist() == seen[1, :, :, 0].nonzero().tolist() == [[0, 0], [1, 3], [2, 0]]
