"""The box code and its way to and from mmdet3d boxes."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmdet3d.structures import LiDARInstance3DBoxes

from qdbev.detectors.boxes.box_code import decode_boxes, encode_boxes, metric_centre, top_boxes

WIDE = (-61.2, -61.2, -10.0, 61.2, 61.2, 10.0)
finite = st.floats(-40, 40, width=32)
positive = st.floats(0.125, 16, width=32)


def test_code_by_hand():
    # a car 4 m long, 2 m wide, 1.5 m high, driving along y (yaw 90 degrees), its bottom at -1.8 m
    box = torch.tensor([[10.0, 20.0, -1.8, 4.0, 2.0, 1.5, math.pi / 2, 0.0, 5.0]])
    # heading in the code: -90 - 90 = -180 degrees, so sin 0, cos -1
    expected = torch.tensor([[10.0, 20.0, math.log(2), math.log(4), -1.05, math.log(1.5), 0.0, -1.0, 0.0, 5.0]])
    torch.testing.assert_close(encode_boxes(box), expected, atol=1e-6, rtol=0)


@given(
    st.tuples(finite, finite, finite, positive, positive, positive, st.floats(-3.125, 3.125, width=32), finite, finite)
)
def test_decode_undoes_encode(numbers):
    box = torch.tensor([numbers], dtype=torch.float64)
    torch.testing.assert_close(decode_boxes(encode_boxes(box)), box, atol=1e-9, rtol=1e-9)


@given(st.floats(-100, 100))
def test_yaw_is_in_range_and_points_the_same_way(yaw):
    box = torch.tensor([[0, 0, 0, 1, 1, 1, yaw, 0, 0]], dtype=torch.float64)
    decoded = float(decode_boxes(encode_boxes(box))[0, 6])
    assert -math.pi <= decoded <= math.pi
    assert math.isclose(math.cos(decoded - yaw), 1, abs_tol=1e-9)


def test_corners_are_those_of_the_old_convention():
    """The code's heading h and sizes mean: the length runs along the direction -h - pi / 2."""
    code = torch.tensor([[1.0, 2.0, math.log(2), math.log(4), 0.5, 0.0, math.sin(0.3), math.cos(0.3), 0.0, 0.0]])
    corners = LiDARInstance3DBoxes(decode_boxes(code), box_dim=9).corners[0]
    along = torch.tensor([math.cos(-0.3 - math.pi / 2), math.sin(-0.3 - math.pi / 2)])
    reach = (corners[:, :2] - torch.tensor([1.0, 2.0])) @ along
    assert math.isclose(float(reach.max()), 2.0, abs_tol=1e-5)  # half the length


def test_missing_velocity_stays_missing():
    box = torch.tensor([[0, 0, 0, 1, 1, 1, 0, math.nan, math.nan]])
    assert encode_boxes(box)[0, 8:].isnan().all()
    assert encode_boxes(box)[0, :8].isfinite().all()


def test_metric_centre_by_hand():
    centre = metric_centre(torch.tensor([0.0, 0.5, 1.0]), pc_range=(-10, -20, -5, 10, 20, 3))
    assert centre.tolist() == [-10.0, 0.0, 3.0]


def test_top_boxes_orders_pairs_and_drops_boxes_outside():
    logits = torch.tensor([[2.0, -1.0], [0.0, 3.0], [5.0, 4.0]])
    code = torch.zeros(3, 10)
    code[:, 7] = 1
    code[2, 0] = 61.3  # the best two pairs are of a query outside
    boxes, scores, labels = top_boxes(logits, code, max_boxes=4, centre_range=WIDE)
    assert labels.tolist() == [1, 0]
    torch.testing.assert_close(scores, torch.tensor([3.0, 2.0]).sigmoid())
    assert boxes.tensor.shape == (2, 9)


def test_the_border_of_the_range_is_inside():
    code = torch.zeros(1, 10)
    code[0, 0] = 61.2
    boxes, _, _ = top_boxes(torch.zeros(1, 1), code, max_boxes=5, centre_range=WIDE)
    assert len(boxes) == 1
    assert float(boxes.tensor[0, 2]) == pytest.approx(-0.5)  # bottom of a box of 1 m at height 0
