"""The past map under the current vehicle, by hand."""

from __future__ import annotations

import math

import torch

from qdbev.detectors.bevdet.warping import warped
from qdbev.detectors.lift import VoxelGrid

GRID = VoxelGrid(low_m=(-2.0, -2.0, 0.0), cell_m=(1.0, 1.0, 8.0), rows=4, columns=4)
MAP = torch.arange(1.0, 17.0).view(1, 1, 4, 4)


def pose(*, x: float = 0.0, y: float = 0.0, degrees: float = 0.0, z: float = 0.0) -> torch.Tensor:
    angle = math.radians(degrees)
    matrix = torch.eye(4, dtype=torch.float64)[None]
    matrix[0, :2, :2] = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    matrix[0, :3, 3] = torch.tensor([x, y, z])
    return matrix


def test_a_vehicle_that_stands_sees_the_same_map() -> None:
    torch.testing.assert_close(warped(MAP, now2past_B44=pose(z=3.0), grid=GRID), MAP)


def test_a_step_along_x_moves_columns_and_zeros_come_in() -> None:
    moved = warped(MAP, now2past_B44=pose(x=1.0), grid=GRID)[0, 0]
    assert moved.round(decimals=4).tolist()[0] == [2.0, 3.0, 4.0, 0.0]
    half = warped(MAP, now2past_B44=pose(y=0.5), grid=GRID)[0, 0]
    assert half.round(decimals=4)[:, 0].tolist() == [3.0, 7.0, 11.0, 6.5]


def test_a_cell_stands_for_its_lower_corner() -> None:
    """Turned half around, cell 1 looks into cell 3 and cell 0 outside; by the middles of cells it would see cell 3."""
    turned = warped(MAP, now2past_B44=pose(degrees=180.0), grid=GRID)[0, 0]
    assert turned.round(decimals=3).tolist() == [[0, 0, 0, 0], [0, 16, 15, 14], [0, 12, 11, 10], [0, 8, 7, 6]]


def test_half_precision_maps_are_sampled_at_exact_places() -> None:
    exact = warped(MAP, now2past_B44=pose(x=0.3, degrees=7.0), grid=GRID)
    half = warped(MAP.bfloat16(), now2past_B44=pose(x=0.3, degrees=7.0), grid=GRID)
    assert half.dtype == torch.bfloat16 and torch.equal(half, exact.bfloat16())
