"""Pillar points and visibility."""

from __future__ import annotations

import torch

from qdbev.detectors.bevformer.frames.geometry import cell_centres, pillar_points, visibility

RANGE = (-51.2, -51.2, -5.0, 51.2, 51.2, 3.0)
CPU = torch.device("cpu")


def test_cells_run_row_by_row():
    cells = cell_centres(rows=2, columns=3, device=CPU)
    torch.testing.assert_close(cells[1], torch.tensor([0.5, 0.25]))
    torch.testing.assert_close(cells[5], torch.tensor([5 / 6, 0.75]))


def test_heights_of_the_official_pillar():
    points = pillar_points(rows=2, columns=2, heights=4, pc_range=RANGE, device=CPU)
    torch.testing.assert_close(points[:, 0, 2], torch.tensor([-4.5, -2.16667, 0.16667, 2.5]), atol=1e-4, rtol=0)
    torch.testing.assert_close(
        points[0, :, :2], torch.tensor([[-25.6, -25.6], [25.6, -25.6], [-25.6, 25.6], [25.6, 25.6]])
    )


def test_visibility_lists_cells_by_image_and_counts_cameras():
    mask = torch.zeros(2, 2, 3, 1, dtype=torch.bool)
    mask[0, 0, 2] = mask[0, 1, 0] = mask[0, 1, 2] = mask[1, 0, 1] = True
    uv = torch.arange(2 * 2 * 3).view(2, 2, 3, 1, 1).expand(-1, -1, -1, -1, 2).float()
    seen = visibility(uv, mask_BNQD=mask)
    assert seen.rows.image_R.tolist() == [0, 1, 1, 2]
    assert seen.rows.query_R.tolist() == [2, 0, 2, 3 + 1]
    assert seen.references_RD2[:, 0, 0].tolist() == [2.0, 3.0, 5.0, 7.0]
    assert seen.cameras_BQ.tolist() == [[1, 1, 2], [1, 1, 1]]


def test_in_a_graph_all_pairs_are_listed_and_what_is_not_seen_looks_far_outside(monkeypatch):
    mask = torch.rand(3, 4, 5, 2, generator=torch.Generator().manual_seed(0)) > 0.6
    uv = torch.rand(3, 4, 5, 2, 2)
    usual = visibility(uv, mask_BNQD=mask)
    monkeypatch.setattr("torch.onnx.is_in_onnx_export", lambda: True)
    listed = visibility(uv, mask_BNQD=mask)
    seen_R = mask.any(-1).flatten()
    assert torch.equal(listed.references_RD2[seen_R], usual.references_RD2)
    assert torch.equal(listed.rows.query_R[seen_R], usual.rows.query_R) and len(listed.rows.query_R) == 3 * 4 * 5
    assert (listed.references_RD2[~seen_R].abs() > 2).all() and torch.equal(listed.cameras_BQ, usual.cameras_BQ)
