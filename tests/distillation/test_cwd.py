"""Channel-wise distillation: by hand, by torch's KL, and as what view-guided distillation calls spatial."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from qdbev.distillation.cwd import bev_channel_wise_loss, channel_wise_loss, image_channel_wise_loss
from qdbev.distillation.vgd import Reading, bev_divergence, image_divergence


def _pair(*shape, seed=0):
    return torch.randn(2, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_by_hand():
    # channel 0: teacher (1, 3)/4, student (1, 1)/2: 0.1308120; channel 1: equal; tau^2 / C = 1 / 2
    teacher = torch.tensor([[[0.0, math.log(3.0)], [2.0, 1.0]]])
    student = torch.tensor([[[0.0, 0.0], [2.0, 1.0]]])
    assert float(channel_wise_loss(student, teacher_BCP=teacher)) == pytest.approx(0.0654060, abs=1e-7)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_agrees_with_torch(temperature):
    student, teacher = _pair(3, 4, 10)
    expected = functional.kl_div(
        functional.log_softmax(student / temperature, dim=2).flatten(0, 1),
        functional.softmax(teacher / temperature, dim=2).flatten(0, 1),
        reduction="batchmean",
    )
    loss = channel_wise_loss(student, teacher_BCP=teacher, temperature=temperature)
    torch.testing.assert_close(loss, expected * temperature**2)


def _looped(teacher, student, *, temperature):
    """tau^2 times KL of one channel, from plain lists of its places."""
    shares = []
    for logits in (teacher, student):
        powers = [math.exp(value / temperature) for value in logits]
        shares.append([power / sum(powers) for power in powers])
    return temperature**2 * sum(p * math.log(p / q) for p, q in zip(*shares, strict=True))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_image_loss_agrees_with_loops_over_cameras_and_channels(temperature):
    levels = [_pair(2, 3, 4, 2, 5, seed=1), _pair(2, 3, 4, 1, 2, seed=2)]
    means = []
    for student, teacher in levels:
        total = 0.0
        for b in range(2):
            for n in range(3):
                for c in range(4):
                    places = [(h, w) for h in range(student.shape[3]) for w in range(student.shape[4])]
                    rows = ([float(features[b, n, c, h, w]) for h, w in places] for features in (teacher, student))
                    total += _looped(*rows, temperature=temperature) / 4
        means.append(total / (2 * 3))
    loss = image_channel_wise_loss(
        [s for s, _ in levels], teacher_image=[t for _, t in levels], temperature=temperature
    )
    assert float(loss) == pytest.approx(sum(means) / 2, rel=1e-9)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_bev_loss_agrees_with_loops_over_cells_and_channels(temperature):
    student, teacher = _pair(2, 7, 4, seed=3)
    total = 0.0
    for b in range(2):
        for c in range(4):
            rows = ([float(features[b, i, c]) for i in range(7)] for features in (teacher, student))
            total += _looped(*rows, temperature=temperature) / 4
    loss = bev_channel_wise_loss(student, teacher_BQC=teacher, temperature=temperature)
    assert float(loss) == pytest.approx(total / 2, rel=1e-9)


def test_image_loss_is_the_mean_over_cameras_and_levels():
    levels = [_pair(2, 3, 4, 2, 5, seed=1), _pair(2, 3, 4, 1, 2, seed=2)]
    divergences = [
        image_divergence(s, teacher_BNCHW=t, reading=Reading(normaliser="cwd_sum")).mean() for s, t in levels
    ]
    loss = image_channel_wise_loss([s for s, _ in levels], teacher_image=[t for _, t in levels], temperature=1.0)
    torch.testing.assert_close(loss, torch.stack(divergences).mean())


def test_bev_loss_is_the_sum_over_cells():
    student, teacher = _pair(2, 7, 4, seed=3)
    cells = bev_divergence(student, teacher_BQC=teacher, reading=Reading(bev_axis="spatial", normaliser="cwd_sum"))
    torch.testing.assert_close(bev_channel_wise_loss(student, teacher_BQC=teacher), cells.sum(1).mean())


def test_refuses_unflattened_features():
    with pytest.raises(ValueError, match=r"expected \(B, C, places\)"):
        channel_wise_loss(torch.zeros(1, 2, 3, 4), teacher_BCP=torch.zeros(1, 2, 3, 4))
    with pytest.raises(ValueError, match=r"expected \(B, N, C, H, W\)"):
        image_channel_wise_loss(torch.zeros(1, 2, 3, 4), teacher_image=torch.zeros(1, 2, 3, 4))
