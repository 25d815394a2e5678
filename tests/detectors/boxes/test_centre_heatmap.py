"""Heat maps of centres and their loss."""

from __future__ import annotations

import math

import torch

from qdbev.detectors.boxes.centre_heatmap import centre_focal, draw_centres


def test_bumps_by_hand():
    cells, sigma, on = torch.tensor([[2, 1], [3, 1]]), torch.tensor([1.0, 1.0]), torch.tensor([0, 0])
    maps = draw_centres(cells, sigma_O=sigma, maps_O=on, count=2, rows=3, columns=5)
    assert maps[0, 1, 2] == maps[0, 1, 3] == 1
    assert math.isclose(float(maps[0, 1, 4]), math.exp(-0.5), rel_tol=1e-6)  # the nearer bump counts
    assert math.isclose(float(maps[0, 0, 2]), math.exp(-0.5), rel_tol=1e-6)
    assert maps[1].abs().max() == 0


def test_no_objects_make_empty_maps():
    empty = torch.zeros(0, dtype=torch.long)
    maps = draw_centres(empty.view(0, 2), sigma_O=torch.zeros(0), maps_O=empty, count=2, rows=3, columns=5)
    assert maps.shape == (2, 3, 5)
    assert maps.abs().max() == 0


def test_loss_by_hand():
    # p = .5 everywhere: hit .25 ln 2; a cell at heat .5: (.5)^4 .25 ln 2; an empty cell .25 ln 2
    targets = torch.tensor([[[1.0, 0.5, 0.0]]])
    loss = centre_focal(torch.zeros(1, 1, 3), targets_GHW=targets, objects=2)
    assert math.isclose(float(loss), 0.25 * math.log(2) * (1 + 1 / 16 + 1) / 2, rel_tol=1e-6)
