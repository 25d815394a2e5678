"""Files that OpenMMLab converted are turned back, so that a box is the same box whichever file its weights are from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipelines.assembly.checkpoint import read_checkpoint
from qdbev.detectors.boxes.box_code import decode_boxes, encode_boxes
from qdbev.detectors.boxes.convention import MARK, in_official_code, turned

NAME = "pts_bbox_head.reg_branches.3.4.bias"


def test_a_converted_branch_tells_the_same_box(tmp_path: Path) -> None:
    box = torch.tensor([[1.0, 2.0, -1.0, 4.0, 2.0, 1.5, 0.5, 3.0, 0.0]])
    length, width, yaw = 4.0, 2.0, 0.5
    # mmdet3d 1.x: log length, log width, sine and cosine of its own yaw
    converted = encode_boxes(box)[0]
    converted[[2, 3]] = torch.tensor([length, width]).log()
    converted[[6, 7]] = torch.tensor([yaw, yaw]).sin() * torch.tensor([1.0, 0.0])
    converted[7] = torch.tensor(yaw).cos()
    file = tmp_path / "detr3d_r101_v1.0.0.pth"
    torch.save({"state_dict": {NAME: converted, "other.4.bias": converted}, "meta": {MARK: True}}, file)
    checkpoint = read_checkpoint(file)
    state, remarks = in_official_code(checkpoint.state, marks=checkpoint.marks)
    torch.testing.assert_close(decode_boxes(state[NAME][None]), box)
    assert torch.equal(state["other.4.bias"], converted)
    assert "0.17" in remarks[0]


def test_an_official_file_stays_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "detr3d_resnet101.pth"
    torch.save({"state_dict": {NAME: torch.arange(10.0)}, "meta": {"epoch": 24}}, file)
    checkpoint = read_checkpoint(file)
    assert in_official_code(checkpoint.state, marks=checkpoint.marks) == (checkpoint.state, ())


@pytest.mark.parametrize("shape", [(10,), (10, 4), (8,), (3,)])
def test_twice_is_not_at_all(shape: tuple[int, ...]) -> None:
    rows = torch.randn(shape)
    assert torch.equal(turned(turned({NAME: rows}))[NAME], rows)
