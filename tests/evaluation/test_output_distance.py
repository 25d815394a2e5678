"""The distance of outputs by hand-computed numbers."""

from __future__ import annotations

import math

import pytest
import torch

from qdbev.evaluation.output_distance import output_distance

LOGITS, CODE = torch.tensor([[[0.0, -30.0]]]), torch.zeros(1, 1, 10)


def distance(logits: torch.Tensor = LOGITS, code: torch.Tensor = CODE) -> float:
    return float(output_distance(logits, code, reference_logits_BKC=LOGITS, reference_code_BK10=CODE)[0])


def test_equal_outputs_have_none() -> None:
    assert distance() == 0


def test_a_score_of_one_half_that_becomes_three_quarters() -> None:
    expected = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    assert distance(torch.tensor([[[math.log(3), -30.0]]])) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("moved", "expected"),
    [
        ({0: 3.0, 1: 4.0}, 0.5 * 25 / 26),  # five metres: as good as lost, times the score of one half
        ({8: 1.0}, 0.5 * 0.5),  # one metre per second
        ({2: 0.1, 5: 0.1}, 0.5 * 0.02 / 1.02),
        ({6: 0.6, 9: 0.6}, 2 * 0.5 * 0.36 / 1.36),  # heading and velocity, each bent alone
        ({4: 9.0}, 0.0),  # the height of the centre is in no nuScenes error
    ],
)
def test_boxes_in_the_units_of_nds(moved: dict[int, float], expected: float) -> None:
    code = CODE.clone()
    for place, value in moved.items():
        code[0, 0, place] = value
    assert distance(code=code) == pytest.approx(expected, rel=1e-5)


def test_boxes_nobody_would_report_do_not_count_and_samples_stay_apart() -> None:
    reference = torch.tensor([[[-40.0]], [[40.0]]])
    code = torch.zeros(2, 1, 10)
    found = output_distance(reference, code + 1, reference_logits_BKC=reference, reference_code_BK10=code)
    assert found.tolist() == pytest.approx([0.0, 2 * 2 / 3 + 3 / 4 + 2 / 3])
