"""View-guided distillation: Eq. 2 to 6 by hand, by plain loops over cameras and cells, and by laws of each switch."""

from __future__ import annotations

import ast
import inspect
import itertools
import math
import re
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qdbev.distillation.vgd import (
    Reading,
    bev_divergence,
    image_divergence,
    spread_over_bev,
    view_guided_loss,
    view_mask,
)

LN3, LN5 = math.log(3.0), math.log(5.0)

# Two cameras with one channel of 2x2 places; four BEV cells (2x2) of two channels; pillars of four points.
# Camera 0: teacher (1, 1, 1, 1)/4, student (1, 1, 1, 5)/8: KL = (3 ln 2 + ln 2/5) / 4        = 0.2907877
# Camera 1: the other way round:                             KL = 3/8 ln 1/2 + 5/8 ln 5/2      = 0.3127515
# Cells 0 and 3: teacher (1, 3)/4, student (1, 1)/2:         KL = 1/4 ln 1/2 + 3/4 ln 3/2      = 0.1308120
# Cell 1: the other way round:                               KL = 1/2 ln 2 + 1/2 ln 2/3        = 0.1438410
# Cell 2: equal:                                             KL = 0
FLAT, PEAK = [[[0.0, 0.0], [0.0, 0.0]]], [[[0.0, 0.0], [0.0, LN5]]]
TEACHER_IMAGE = torch.tensor([[FLAT, PEAK]])
STUDENT_IMAGE = torch.tensor([[PEAK, FLAT]])
TEACHER_BEV = torch.tensor([[[0.0, LN3], [0.0, 0.0], [1.0, 2.0], [0.0, LN3]]])
STUDENT_BEV = torch.tensor([[[0.0, 0.0], [0.0, LN3], [1.0, 2.0], [0.0, 0.0]]])
VIEW = torch.tensor(
    [[[[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]], [[0, 0, 0, 1], [0, 0, 0, 0], [0] * 4, [1] * 4]]]
).bool()
EXAMPLE = {
    "teacher_image": TEACHER_IMAGE,
    "student_bev": STUDENT_BEV,
    "teacher_bev": TEACHER_BEV,
    "bev_mask_BNQD": VIEW,
}


def test_equation_3_by_hand():
    divergence = image_divergence(STUDENT_IMAGE, teacher_BNCHW=TEACHER_IMAGE)
    assert divergence.tolist() == [pytest.approx([0.2907877 / 4, 0.3127515 / 4], abs=1e-7)]


def test_equation_4_by_hand():
    divergence = bev_divergence(STUDENT_BEV, teacher_BQC=TEACHER_BEV)
    assert divergence.tolist() == [pytest.approx([0.0654060, 0.0719205, 0.0, 0.0654060], abs=1e-7)]


def test_equation_5_by_hand():
    mask = view_mask(VIEW)
    assert mask.tolist() == [[[1.0, 0.5, 1.0, 0.0], [0.25, 0.0, 0.0, 1.0]]]
    spread = spread_over_bev(torch.tensor([[0.0726969, 0.0781879]]), mask_BNQ=mask)
    assert spread[0, 0].tolist() == pytest.approx([0.0726969, 0.03634845, 0.0726969, 0.0])
    assert spread[0, 1].tolist() == pytest.approx([0.019546975, 0.0, 0.0, 0.0781879])


@pytest.mark.parametrize(
    ("switches", "expected"),
    [
        # 0.0726969 * (0.0654060 + 0.5 * 0.0719205) + 0.0781879 * (0.25 * 0.0654060 + 0.0654060)
        ({}, 0.0137615),
        # 0.0726969 * (0.0654060 + 0.0719205) + 0.0781879 * (0.0654060 + 0.0654060)
        ({"mask": "any"}, 0.0202111),
        # 4 * 2 times the first: 1 / (W H C) -> 1 / C with one channel, and 1 / C -> 1 with two
        ({"normaliser": "cwd_sum"}, 0.1100917),
        ({"combine": "image_only"}, 0.1508848),
        ({"combine": "bev_only"}, 0.2027325),
        ({"combine": "additive"}, 0.3536173),
        ({"detach": "image"}, 0.0137615),
        ({"batch": "paper_literal"}, 0.0137615),
    ],
)
def test_equation_6_by_hand(switches, expected):
    loss, terms = view_guided_loss(STUDENT_IMAGE, **EXAMPLE, reading=Reading(**switches))
    assert float(loss) == pytest.approx(expected, abs=2e-7)
    assert float(terms["vgd"]) == float(loss)


def test_terms_are_the_means_of_equations_3_and_4_without_gradient():
    _, terms = view_guided_loss(STUDENT_IMAGE.clone().requires_grad_(), **EXAMPLE)
    assert float(terms["vgd_image"]) == pytest.approx((0.0726969 + 0.0781879) / 2, abs=1e-7)
    assert float(terms["vgd_bev"]) == pytest.approx(0.2027325 / 4, abs=1e-7)
    assert not any(term.requires_grad for term in terms.values())


def _random_case(seed, *, batch=2, cameras=3, channels=4, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=dtype)

    case = {
        "student_image": normal(batch, cameras, channels, 2, 3),
        "teacher_image": normal(batch, cameras, channels, 2, 3),
        "student_bev": normal(batch, 5, channels),
        "teacher_bev": normal(batch, 5, channels),
        "bev_mask_BNQD": torch.rand(batch, cameras, 5, 4, generator=generator) < 0.5,
    }
    return case


def _share(logits, temperature):
    powers = [math.exp(value / temperature) for value in logits]
    return [power / sum(powers) for power in powers]


def _kl(teacher, student, *, temperature, pointwise):
    """Terms of one distribution, from plain lists of logits."""
    terms = []
    for p, q in zip(_share(teacher, temperature), _share(student, temperature), strict=True):
        terms.append(p * math.log(p / q) + (q - p if pointwise == "generalised_kl" else 0.0))
    return terms


def _looped(case, *, temperature, image_axis, bev_axis, pointwise, normaliser, batch, mask, combine):
    """Eq. 2 to 6 by loops over samples, cameras and cells, in plain Python."""
    options = {"temperature": temperature, "pointwise": pointwise}
    samples, cameras, channels = case["student_image"].shape[:3]
    cells = case["student_bev"].shape[1]
    image = [[0.0] * cameras for _ in range(samples)]
    bev = [[0.0] * cells for _ in range(samples)]
    view = [[[0.0] * cells for _ in range(cameras)] for _ in range(samples)]
    for b in range(samples):
        for n in range(cameras):
            teacher = case["teacher_image"][b, n].reshape(channels, -1)
            student = case["student_image"][b, n].reshape(channels, -1)
            places = teacher.shape[1]
            if image_axis == "channel":
                teacher, student = teacher.T, student.T
            elif image_axis == "everything":
                teacher, student = teacher.reshape(1, -1), student.reshape(1, -1)
            rows = zip(teacher.tolist(), student.tolist(), strict=True)
            total = sum(sum(_kl(t, s, **options)) for t, s in rows)
            image[b][n] = temperature**2 * total / (channels * places if normaliser == "paper" else len(teacher))
            for i in range(cells):
                points = case["bev_mask_BNQD"][b, n, i].tolist()
                view[b][n][i] = sum(points) / len(points) if mask == "mean" else float(any(points))
        teacher, student = case["teacher_bev"][b], case["student_bev"][b]
        if bev_axis == "spatial":
            columns = [_kl(teacher[:, c].tolist(), student[:, c].tolist(), **options) for c in range(channels)]
            cell_terms = [[column[i] for column in columns] for i in range(cells)]
        else:
            cell_terms = [_kl(teacher[i].tolist(), student[i].tolist(), **options) for i in range(cells)]
        divisor = 1 if normaliser == "cwd_sum" and bev_axis == "channel" else channels
        bev[b] = [temperature**2 * sum(terms) / divisor for terms in cell_terms]
    if batch == "paper_literal":
        image = [[sum(image[b][n] for b in range(samples)) / samples for n in range(cameras)]]
        bev = [[sum(bev[b][i] for b in range(samples)) / samples for i in range(cells)]]
        view = [[[sum(view[b][n][i] for b in range(samples)) / samples for i in range(cells)] for n in range(cameras)]]
    total = 0.0
    for b in range(len(image)):
        for n in range(cameras):
            total += image[b][n] if combine in ("additive", "image_only") else 0.0
            for i in range(cells):
                total += image[b][n] * view[b][n][i] * bev[b][i] if combine == "product" else 0.0
        for i in range(cells):
            total += bev[b][i] if combine in ("additive", "bev_only") else 0.0
    return total / len(image)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    temperature=st.sampled_from([1.0, 4.0]),
    image_axis=st.sampled_from(["spatial", "channel", "everything"]),
    bev_axis=st.sampled_from(["channel", "spatial"]),
    pointwise=st.sampled_from(["kl", "generalised_kl"]),
    normaliser=st.sampled_from(["paper", "cwd_sum"]),
    batch=st.sampled_from(["per_sample", "paper_literal"]),
    mask=st.sampled_from(["mean", "any"]),
    combine=st.sampled_from(["product", "product", "additive", "image_only", "bev_only"]),
)
def test_agrees_with_plain_loops_for_every_switch(seed, **switches):
    case = _random_case(seed)
    loss, _ = view_guided_loss(**case, reading=Reading(**switches))
    assert float(loss) == pytest.approx(_looped(case, **switches), rel=1e-9, abs=1e-15)


@pytest.mark.parametrize(
    ("combine", "unneeded"),
    [("product", ()), ("additive", ("bev_mask_BNQD",)), ("image_only", ("bev",)), ("bev_only", ("image",))],
)
def test_what_a_combination_does_without_may_be_missing_and_nothing_else(combine, unneeded):
    case = _random_case(11)
    whole, _ = view_guided_loss(**case, reading=Reading(combine=combine))
    without = {name: None if any(side in name for side in unneeded) else tensor for name, tensor in case.items()}
    loss, terms = view_guided_loss(**without, reading=Reading(combine=combine))
    assert float(loss) == float(whole)
    assert ("vgd_bev" in terms, "vgd_image" in terms) == ("bev" not in unneeded, "image" not in unneeded)
    if combine != "product":
        with pytest.raises(ValueError, match="combine='product' needs image, bev, mask"):
            view_guided_loss(**without)


@pytest.mark.parametrize("image_axis", ["spatial", "channel", "everything"])
@pytest.mark.parametrize("bev_axis", ["channel", "spatial"])
def test_zero_with_zero_gradient_where_student_equals_teacher(image_axis, bev_axis):
    case = _random_case(3)
    image, bev = case["teacher_image"].clone().requires_grad_(), case["teacher_bev"].clone().requires_grad_()
    case |= {"student_image": image, "student_bev": bev}
    loss, _ = view_guided_loss(**case, reading=Reading(image_axis=image_axis, bev_axis=bev_axis))
    loss.backward()
    assert loss.item() == 0.0
    assert image.grad.abs().max() == 0.0 and bev.grad.abs().max() == 0.0


def test_plain_kl_over_cells_goes_below_zero_and_the_other_readings_do_not():
    student, teacher = torch.randn(2, 1, 400, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    student = teacher + 0.2 * student
    plain, remedied = Reading(bev_axis="spatial"), Reading(bev_axis="spatial", pointwise="generalised_kl")
    assert (bev_divergence(student, teacher_BQC=teacher, reading=plain) < 0).double().mean() > 0.1
    assert bev_divergence(student, teacher_BQC=teacher, reading=remedied).min() >= 0
    assert bev_divergence(student, teacher_BQC=teacher, reading=Reading(bev_axis="channel")).min() >= 0


@pytest.mark.parametrize(("axis", "ratio"), [("spatial", 6), ("channel", 4), ("everything", 24)])
def test_image_normalisers_differ_by_the_size_of_one_distribution(axis, ratio):
    case = _random_case(1)
    paper, whole = (
        image_divergence(
            case["student_image"],
            teacher_BNCHW=case["teacher_image"],
            reading=Reading(image_axis=axis, normaliser=normaliser),
        )
        for normaliser in ("paper", "cwd_sum")
    )
    torch.testing.assert_close(whole, paper * ratio)


@pytest.mark.parametrize(("axis", "ratio"), [("spatial", 1), ("channel", 4)])
def test_bev_normalisers_differ_by_the_channels_of_one_cell(axis, ratio):
    case = _random_case(1)
    paper, whole = (
        bev_divergence(
            case["student_bev"],
            teacher_BQC=case["teacher_bev"],
            reading=Reading(bev_axis=axis, normaliser=normaliser),
        )
        for normaliser in ("paper", "cwd_sum")
    )
    torch.testing.assert_close(whole, paper * ratio)


def test_batch_is_the_mean_of_singles():
    case = _random_case(5, batch=3)
    singles = [view_guided_loss(**{name: tensor[b : b + 1] for name, tensor in case.items()})[0] for b in range(3)]
    torch.testing.assert_close(view_guided_loss(**case)[0], torch.stack(singles).mean())


def test_paper_literal_equals_per_sample_at_one_sample_only():
    single, pair = _random_case(2, batch=1), _random_case(2, batch=2)
    literal = Reading(batch="paper_literal")
    torch.testing.assert_close(view_guided_loss(**single, reading=literal)[0], view_guided_loss(**single)[0])
    assert float(view_guided_loss(**pair, reading=literal)[0]) != pytest.approx(float(view_guided_loss(**pair)[0]))


def test_logits_and_temperature_doubled_give_four_times_each_factor():
    case = _random_case(4)
    doubled = {name: tensor * 2 if tensor.is_floating_point() else tensor for name, tensor in case.items()}
    torch.testing.assert_close(
        view_guided_loss(**doubled, reading=Reading(temperature=2.0))[0], 16 * view_guided_loss(**case)[0]
    )


def test_levels_are_averaged_per_camera():
    case, other = _random_case(6), _random_case(7)
    both = case | {name: [case[name], other[name]] for name in ("student_image", "teacher_image")}
    changed = case | {name: other[name] for name in ("student_image", "teacher_image")}
    mean = (view_guided_loss(**case)[0] + view_guided_loss(**changed)[0]) / 2  # Eq. 6 is linear in L_img
    torch.testing.assert_close(view_guided_loss(**both)[0], mean)


def test_unseen_cells_and_cameras_do_not_count():
    case = _random_case(8)
    case["bev_mask_BNQD"][:, :, 2] = False
    case["bev_mask_BNQD"][:, 1] = False
    before, _ = view_guided_loss(**case)
    case["student_bev"][:, 2] += 3.0 * torch.arange(4)
    case["student_image"][:, 1] *= -2.0
    assert float(view_guided_loss(**case)[0]) == float(before)
    case["bev_mask_BNQD"][:] = False
    assert float(view_guided_loss(**case)[0]) == 0.0


@pytest.mark.parametrize("pointwise", ["kl", "generalised_kl"])
@pytest.mark.parametrize("axes", [("spatial", "channel"), ("channel", "spatial"), ("everything", "channel")])
def test_gradient_agrees_with_finite_differences(axes, pointwise):
    case = _random_case(9, batch=1, cameras=2, channels=2)
    image, bev = case.pop("student_image").requires_grad_(), case.pop("student_bev").requires_grad_()

    def loss(image, bev):
        reading = Reading(image_axis=axes[0], bev_axis=axes[1], pointwise=pointwise)
        return view_guided_loss(image, student_bev=bev, **case, reading=reading)[0]

    assert torch.autograd.gradcheck(loss, (image, bev), eps=1e-6, atol=1e-8)


@pytest.mark.parametrize(("detach", "image_moves", "bev_moves"), [(None, 1, 1), ("image", 0, 1), ("bev", 1, 0)])
def test_detach_stops_one_gradient_and_leaves_the_other(detach, image_moves, bev_moves):
    def gradients(detach):
        case = _random_case(10)
        image, bev = case["student_image"].requires_grad_(), case["student_bev"].requires_grad_()
        view_guided_loss(**case, reading=Reading(detach=detach))[0].backward()
        zero = torch.zeros_like
        return zero(image) if image.grad is None else image.grad, zero(bev) if bev.grad is None else bev.grad

    image, bev = gradients(detach)
    full_image, full_bev = gradients(None)
    torch.testing.assert_close(image, full_image * image_moves)
    torch.testing.assert_close(bev, full_bev * bev_moves)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bev_mask_BNQD": VIEW.transpose(0, 1)}, r"expected \(B, N, Q\), \(B, N\) and \(B, Q\)"),
        ({"bev_mask_BNQD": VIEW[0]}, r"expected \(B, N, Q, D\)"),
        ({"teacher_bev": TEACHER_BEV[:, :2]}, "expected one shape"),
        ({"student_bev": STUDENT_BEV[0]}, r"expected \(B, Q, C\)"),
        ({"teacher_image": TEACHER_IMAGE[0], "student_image": STUDENT_IMAGE[0]}, r"expected \(B, N, C, H, W\)"),
        ({"teacher_image": [TEACHER_IMAGE, TEACHER_IMAGE]}, "1 levels of the student, 2 of the teacher"),
        ({"reading": Reading(temperature=0.0)}, "temperature 0.0: expected a positive number"),
    ],
)
def test_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        view_guided_loss(**{"student_image": STUDENT_IMAGE, **EXAMPLE, **change})


@pytest.mark.parametrize(
    ("switches", "message"),
    [
        ({"image_axis": "batch"}, "image_axis 'batch': expected one of spatial, channel, everything"),
        ({"bev_axis": "everything"}, "bev_axis 'everything'"),
        ({"pointwise": "l2"}, "pointwise 'l2'"),
        ({"normaliser": "mean"}, "normaliser 'mean'"),
        ({"batch": "sum"}, "batch 'sum'"),
        ({"mask": "max"}, "mask 'max'"),
        ({"combine": "sum"}, "combine 'sum'"),
        ({"detach": "both"}, "detach 'both': expected one of None, image, bev"),
        ({"detach": "bev", "combine": "additive"}, "no meaning"),
    ],
)
def test_a_reading_has_only_its_values(switches, message):
    with pytest.raises(ValueError, match=message):
        Reading(**switches)


def _table_of_readings():
    """The docs' table, from the docstrings of the fields of ``Reading``."""
    (reading,) = (node for node in ast.parse(inspect.getsource(Reading)).body if isinstance(node, ast.ClassDef))
    rows = ["| Switch | Value | Reading |", "|---|---|---|"]
    for field, text in itertools.pairwise(reading.body):
        if isinstance(field, ast.AnnAssign):
            what, *values = re.split(r"\s*\n- ", inspect.cleandoc(text.value.value).replace("``", "`"))
            rows.append(f"| `{field.target.id}` | | {' '.join(what.split())} |")
            for value in values:
                name, _, meaning = " ".join(value.split()).partition(": ")
                rows.append(f"| | {name} | {meaning} |")
    return "\n".join(rows)


def test_the_docs_table_is_the_fields_of_reading():
    page = (Path(__file__).resolve().parents[2] / "docs" / "vgd.md").read_text(encoding="utf-8")
    assert _table_of_readings() in page, f"docs/vgd.md needs this table:\n{_table_of_readings()}"


def test_the_table_names_every_value_of_every_switch_the_default_first():
    named = re.findall(r"^\| (?:`(\w+)`)? ?\| (?:`(\w+)`)?", _table_of_readings(), re.MULTILINE)
    values = {}
    for switch, value in named:
        if switch:
            values[switch] = row = []
        elif value:
            row.append(value)
    hints = get_type_hints(Reading)
    assert values == {name: [str(choice) for choice in get_args(hint)] for name, hint in hints.items()}
    assert all(chosen == [] or chosen[0] == str(getattr(Reading(), name)) for name, chosen in values.items())
