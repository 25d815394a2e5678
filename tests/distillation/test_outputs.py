"""Distillation of outputs: against plain loops over layers, samples and queries, and by laws of weighting."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qdbev.distillation.outputs import box_output_loss, class_output_loss

WEIGHTS = torch.tensor([1.0, 2.0, 0.25], dtype=torch.float64)


def _case(seed, *, layers=2, batch=3, queries=4, classes=3, entries=3):
    generator = torch.Generator().manual_seed(seed)

    def normal(last):
        return 2 * torch.randn(layers, batch, queries, last, generator=generator, dtype=torch.float64)

    return {
        "student_class": normal(classes),
        "teacher_class": normal(classes),
        "student_box": normal(entries),
        "teacher_box": normal(entries),
    }


def _sigmoid(value):
    return 1 / (1 + math.exp(-value))


def _looped(case, *, kind, layers, weighting, temperature=1.0):
    """Both losses in plain Python, one query after the other."""
    chosen = range(len(case["teacher_class"])) if layers == "all" else [len(case["teacher_class"]) - 1]
    means = []
    for layer in chosen:
        for b in range(case["teacher_class"].shape[1]):
            total = weights = 0.0
            for k in range(case["teacher_class"].shape[2]):
                scores = case["teacher_class"][layer, b, k].tolist()
                weight = max(map(_sigmoid, scores)) if weighting == "score" else 1.0
                student, teacher = (case[f"{whose}_{kind}"][layer, b, k].tolist() for whose in ("student", "teacher"))
                loss = 0.0
                for entry, (s, t) in enumerate(zip(student, teacher, strict=True)):
                    if kind == "box":
                        loss += float(WEIGHTS[entry]) * abs(s - t)
                    else:
                        p, q = _sigmoid(t / temperature), _sigmoid(s / temperature)
                        loss += p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
                total += weight * loss
                weights += weight
            means.append(total / weights)
    return temperature**2 * sum(means) / len(means)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    temperature=st.sampled_from([1.0, 2.0, 4.0]),
    layers=st.sampled_from(["last", "all"]),
    weighting=st.sampled_from(["score", "uniform"]),
)
def test_agrees_with_plain_loops_over_queries(seed, temperature, layers, weighting):
    case = _case(seed)
    switches = {"layers": layers, "weighting": weighting}
    of_class = class_output_loss(
        case["student_class"], teacher_LBKC=case["teacher_class"], temperature=temperature, **switches
    )
    of_box = box_output_loss(
        case["student_box"],
        teacher_LBKD=case["teacher_box"],
        teacher_LBKC=case["teacher_class"],
        code_weights_D=WEIGHTS,
        **switches,
    )
    expected = _looped(case, kind="class", temperature=temperature, **switches)
    assert float(of_class) == pytest.approx(expected, rel=1e-9)
    assert float(of_box) == pytest.approx(_looped(case, kind="box", **switches), rel=1e-9)


def test_class_gradient_is_that_of_the_binary_cross_entropy():
    case = _case(1)
    student, teacher = case["student_class"].requires_grad_(), case["teacher_class"]
    loss = class_output_loss(student, teacher_LBKC=teacher, layers="all", weighting="uniform")
    cross = torch.nn.functional.binary_cross_entropy_with_logits(student, teacher.sigmoid(), reduction="none")
    ours, expected = (torch.autograd.grad(value, student)[0] for value in (loss, cross.sum(-1).mean()))
    torch.testing.assert_close(ours, expected)


def test_zero_with_zero_gradient_where_student_equals_teacher():
    case = _case(2)
    student = case["teacher_class"].clone().requires_grad_()
    loss = class_output_loss(student, teacher_LBKC=case["teacher_class"])
    loss.backward()
    assert abs(loss.item()) < 1e-12 and student.grad.abs().max() < 1e-12


def test_a_batch_is_the_mean_of_singles_and_earlier_layers_wait_for_all():
    case = _case(3)
    whole = class_output_loss(case["student_class"], teacher_LBKC=case["teacher_class"])
    singles = [
        class_output_loss(case["student_class"][:, b : b + 1], teacher_LBKC=case["teacher_class"][:, b : b + 1])
        for b in range(3)
    ]
    torch.testing.assert_close(whole, torch.stack(singles).mean())
    case["student_class"][0] += 5
    assert float(class_output_loss(case["student_class"], teacher_LBKC=case["teacher_class"])) == float(whole)


def test_queries_the_teacher_does_not_believe_in_hardly_count():
    teacher = torch.tensor([[[[4.0], [-40.0]]]])
    boxes = torch.zeros(1, 1, 2, 1)
    far = boxes + torch.tensor([1.0, 100.0]).view(1, 1, 2, 1)
    weights = torch.ones(1)
    loss = box_output_loss(far, teacher_LBKD=boxes, teacher_LBKC=teacher, code_weights_D=weights)
    assert float(loss) == pytest.approx(1.0, abs=1e-6)
    uniform = box_output_loss(
        far, teacher_LBKD=boxes, teacher_LBKC=teacher, code_weights_D=weights, weighting="uniform"
    )
    assert float(uniform) == pytest.approx(50.5)


def test_extreme_logits_stay_finite_with_finite_gradients():
    student = torch.tensor([[[[1e4], [-1e4]]]], requires_grad=True)
    loss = class_output_loss(student, teacher_LBKC=torch.tensor([[[[-1e4], [1e4]]]]), weighting="uniform")
    loss.backward()
    assert loss.item() == pytest.approx(1e4) and student.grad.isfinite().all()


def test_no_gradient_reaches_the_teacher():
    case = {name: tensor.requires_grad_() for name, tensor in _case(4).items()}
    loss = class_output_loss(case["student_class"], teacher_LBKC=case["teacher_class"])
    loss = loss + box_output_loss(
        case["student_box"],
        teacher_LBKD=case["teacher_box"],
        teacher_LBKC=case["teacher_class"],
        code_weights_D=WEIGHTS,
    )
    loss.backward()
    assert case["teacher_class"].grad is None and case["teacher_box"].grad is None


def test_refuses():
    zeros = torch.zeros(2, 1, 4, 3)
    with pytest.raises(ValueError, match="expected one shape of layers"):
        class_output_loss(zeros, teacher_LBKC=zeros[:1])
    with pytest.raises(ValueError, match="expected one shape of layers"):
        class_output_loss(zeros[0], teacher_LBKC=zeros[0])
    with pytest.raises(ValueError, match="temperature 0"):
        class_output_loss(zeros, teacher_LBKC=zeros, temperature=0)
    with pytest.raises(ValueError, match="layers 'first': expected one of last, all"):
        class_output_loss(zeros, teacher_LBKC=zeros, layers="first")
    with pytest.raises(ValueError, match="weighting 'best': expected one of score, uniform"):
        class_output_loss(zeros, teacher_LBKC=zeros, weighting="best")
    for logits, weights in ((zeros[:, :, :2], torch.ones(3)), (zeros, torch.ones(2))):
        with pytest.raises(ValueError, match="code weights for box codes"):
            box_output_loss(zeros, teacher_LBKD=zeros, teacher_LBKC=logits, code_weights_D=weights)
