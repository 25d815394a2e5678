"""Detection losses by hand and by law."""

from __future__ import annotations

import math

import pytest
import torch

from qdbev.detectors.boxes.loss import detection_losses, sigmoid_focal

WEIGHTS = torch.tensor([1.0] * 8 + [0.2, 0.2])


def losses(logits, code, labels, targets):
    return detection_losses(logits, code, labels=labels, targets=targets, code_weights_10=WEIGHTS)


def test_focal_against_its_definition():
    logit = torch.linspace(-6, 6, 25, dtype=torch.float64)
    p = logit.sigmoid()
    torch.testing.assert_close(sigmoid_focal(logit, torch.ones_like(p)), -0.25 * (1 - p) ** 2 * p.log())
    torch.testing.assert_close(sigmoid_focal(logit, torch.zeros_like(p)), -0.75 * p**2 * (1 - p).log())


def test_one_layer_by_hand():
    # two queries, one object; the second query has the object's box but for x (2 m off) and vx (5 m/s off)
    logits = torch.zeros(1, 1, 2, 1)
    code, target = torch.zeros(1, 1, 2, 10), torch.zeros(1, 10)
    code[0, 0, 0, 0] = 50
    code[0, 0, 1, 0], code[0, 0, 1, 8] = 2.0, 5.0
    result = losses(logits, code, [torch.tensor([0])], [target])
    # focal at p = .5: .25 * .25 ln 2 for the match, .75 * .25 ln 2 for the other; weight 2
    assert float(result["loss_cls"].detach()) == pytest.approx(2 * 0.25 * math.log(2), abs=1e-6)
    assert float(result["loss_bbox"].detach()) == pytest.approx(0.25 * (2.0 + 0.2 * 5.0), abs=1e-6)


def test_names_follow_the_layers():
    names = losses(torch.zeros(3, 1, 2, 4), torch.zeros(3, 1, 2, 10), [torch.tensor([0])], [torch.zeros(1, 10)])
    assert sorted(names) == sorted(
        ["loss_cls", "loss_bbox", "d0.loss_cls", "d0.loss_bbox", "d1.loss_cls", "d1.loss_bbox"]
    )


def test_the_normaliser_is_the_number_of_matches_in_the_batch():
    logits, code = torch.randn(1, 2, 6, 3), torch.randn(1, 2, 6, 10)
    labels, targets = [torch.tensor([0]), torch.tensor([1, 2, 0])], [torch.randn(1, 10), torch.randn(3, 10)]
    both = losses(logits, code, labels, targets)
    singles = [losses(logits[:, i : i + 1], code[:, i : i + 1], labels[i : i + 1], targets[i : i + 1]) for i in (0, 1)]
    for name in both:
        assert float(both[name]) == pytest.approx((float(singles[0][name]) + 3 * float(singles[1][name])) / 4, rel=1e-5)


def test_no_objects_train_the_background_alone():
    logits, code = torch.zeros(1, 1, 2, 3, requires_grad=True), torch.zeros(1, 1, 2, 10, requires_grad=True)
    result = losses(logits, code, [torch.zeros(0, dtype=torch.long)], [torch.zeros(0, 10)])
    assert float(result["loss_bbox"].detach()) == 0
    assert float(result["loss_cls"].detach()) == pytest.approx(2 * 6 * 0.75 * 0.25 * math.log(2), rel=1e-5)
    sum(result.values()).backward()
    assert (logits.grad > 0).all()
    assert code.grad.abs().sum() == 0


def test_a_box_without_velocity_gives_no_box_loss_and_no_nan():
    code = torch.ones(1, 1, 1, 10, requires_grad=True)
    target = torch.zeros(1, 10)
    target[0, 8:] = math.nan
    result = losses(torch.zeros(1, 1, 1, 2, requires_grad=True), code, [torch.tensor([0])], [target])
    assert float(result["loss_bbox"].detach()) == 0
    result["loss_bbox"].backward()
    assert code.grad.abs().sum() == 0


def test_motion_is_squared_by_hand_and_absent_by_default():
    code = torch.zeros(1, 1, 1, 10)
    target = torch.zeros(1, 10)
    target[0, 6:] = torch.tensor([0.6, 0.8, 5.0, -10.0])
    arguments = {"labels": [torch.tensor([0])], "targets": [target], "code_weights_10": torch.ones(10)}
    losses = detection_losses(torch.zeros(1, 1, 1, 3), code, motion_weight=0.5, **arguments)
    # 0.36 + 0.64 + (5/5)^2 + (10/5)^2, times the weight
    assert float(losses["loss_motion"]) == pytest.approx(3.0)
    assert "loss_motion" not in detection_losses(torch.zeros(1, 1, 1, 3), code, **arguments)
