"""Objectives of a profile: each the library's loss with the profile's settings, weighed apart, and its needs said."""

from __future__ import annotations

import ast
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import pytest
import torch

import profiles
from pipelines.lineage.chain import link_name
from pipelines.training.objectives import OBJECTIVES, given_by, objectives, refuse_missing, taught, weighed
from profiles.sections.distillation import OBJECTIVE_WORDS, ObjectiveName
from qdbev.detectors.features import Features
from qdbev.distillation.cwd import bev_channel_wise_loss, image_channel_wise_loss
from qdbev.distillation.hints import hint_loss, image_hint_loss
from qdbev.distillation.outputs import box_output_loss, class_output_loss
from qdbev.distillation.vgd import view_guided_loss

ALL = get_args(ObjectiveName)


def features(seed: int) -> Features:
    """Two samples, two cameras, two levels, five cells, two decoder layers of four queries."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    return Features(
        image=[normal(2, 2, 3, 2, 4), normal(2, 2, 3, 1, 2)],
        bev_BQC=normal(2, 5, 3),
        bev_mask_BNQD=torch.rand(2, 2, 5, 4, generator=torch.Generator().manual_seed(0)) < 0.5,
        logits_LBKC=normal(2, 2, 4, 10),
        code_LBKD=normal(2, 2, 4, 10),
    )


STUDENT, TEACHER = features(1), features(2)


def compared(*words: str, learned: Features = STUDENT) -> dict[str, float]:
    """The bare losses of a profile's objectives."""
    profile = profiles.load("w4a6", overrides=[f"distillation.{word}" for word in words])
    return {objective.name: float(objective.compare(learned, TEACHER)[0]) for objective in objectives(profile)}


def test_rows_are_the_objectives_of_the_profile_and_each_has_its_word() -> None:
    assert tuple(row.name for row in OBJECTIVES) == ALL == tuple(OBJECTIVE_WORDS)


def test_the_default_is_the_view_guided_loss_alone() -> None:
    mask = STUDENT.bev_mask_BNQD
    loss, _ = view_guided_loss(
        STUDENT.image,
        teacher_image=TEACHER.image,
        student_bev=STUDENT.bev_BQC,
        teacher_bev=TEACHER.bev_BQC,
        bev_mask_BNQD=mask,
    )
    assert compared() == {"vgd": float(loss)}


def test_every_objective_is_the_librarys_loss() -> None:
    losses = compared(f"objectives=[{','.join(ALL)}]")
    assert list(losses) == list(ALL)
    student, teacher, weights = STUDENT, TEACHER, torch.tensor(profiles.load("w4a6").model.head.code_weights)
    assert None not in (student.bev_BQC, student.logits_LBKC, student.code_LBKD, student.image)
    expected = {
        "cwd_image": image_channel_wise_loss(student.image, teacher_image=teacher.image),  # type: ignore[arg-type]
        "cwd_bev": bev_channel_wise_loss(student.bev_BQC, teacher_BQC=teacher.bev_BQC),  # type: ignore[arg-type]
        "fitnet_image": image_hint_loss(student.image, teacher_image=teacher.image),  # type: ignore[arg-type]
        "fitnet_bev": hint_loss(student.bev_BQC, teacher=teacher.bev_BQC),  # type: ignore[arg-type]
        "output_class": class_output_loss(student.logits_LBKC, teacher_LBKC=teacher.logits_LBKC),  # type: ignore[arg-type]
        "output_box": box_output_loss(
            student.code_LBKD,  # type: ignore[arg-type]
            teacher_LBKD=teacher.code_LBKD,  # type: ignore[arg-type]
            teacher_LBKC=teacher.logits_LBKC,  # type: ignore[arg-type]
            code_weights_D=weights,
        ),
    }
    for name, loss in expected.items():
        assert losses[name] == float(loss), name


@pytest.mark.parametrize(
    "words",
    [
        *(("vgd", f"{field}={value}") for field, value in (("temperature", 4), ("image_axis", "everything"))),
        *(("vgd", f"combine={value}") for value in ("additive", "image_only", "bev_only")),
        ("cwd_image", "cwd_image.temperature=4"),
        ("cwd_bev", "cwd_bev.temperature=4"),
        *(("output_class", f"output_class.{word}") for word in ("temperature=4", "layers=all", "weighting=uniform")),
        *(("output_box", f"output_box.{word}") for word in ("layers=all", "weighting=uniform")),
    ],
    ids=lambda words: words[1],
)
def test_every_setting_changes_its_objective_alone(words: tuple[str, str]) -> None:
    name, word = words
    chosen = f"objectives=[{','.join(ALL)}]"
    before, after = compared(chosen), compared(chosen, word)
    assert {objective for objective in ALL if before[objective] != after[objective]} == {name}


def test_each_has_a_weight_of_its_own_by_the_same_rule() -> None:
    words = ["objectives=[vgd,cwd_bev,output_box]", "auto_share=0.1", "cwd_bev.auto_share=0.4", "output_box.weight=3"]
    profile = profiles.load("w4a6", overrides=[f"distillation.{word}" for word in words])
    wanted = objectives(profile)
    total, terms = weighed(wanted, learned=STUDENT, teacher=TEACHER, detection=torch.tensor(2.0))
    shares = [float(terms[f"{name}_weighted"]) for name in ("vgd", "cwd_bev", "output_box")]
    assert shares == pytest.approx([0.2, 0.8, 3 * float(terms["output_box"])])
    assert float(total) == pytest.approx(2.0 + sum(shares))
    assert [objective.weight.value for objective in wanted][:2] == pytest.approx(
        [0.2 / float(terms["vgd"]), 0.8 / float(terms["cwd_bev"])]
    )


@pytest.mark.parametrize("name", ALL)
def test_an_objective_runs_on_what_it_needs_and_on_nothing_less(name: ObjectiveName) -> None:
    profile = profiles.load("w4a6", overrides=[f"distillation.objectives=[{name}]"])
    (objective,) = objectives(profile)
    least = replace(Features(), **{field: getattr(STUDENT, field) for field in objective.needs})
    assert float(objective.compare(least, TEACHER)[0]) == float(objective.compare(STUDENT, TEACHER)[0])
    refuse_missing(profile.distillation, given=given_by(least), whose="it")
    for field in objective.needs:
        less = given_by(replace(least, **{field: None}))
        with pytest.raises(ValueError, match=f"objective {name} needs .* which it does not give"):
            refuse_missing(profile.distillation, given=less, whose="it")


def test_the_refusal_says_what_is_missing_and_what_would_run() -> None:
    section = profiles.load("w4a6").distillation
    with pytest.raises(ValueError) as caught:
        refuse_missing(section, given={"image"}, whose="the detector fcos3d")
    assert str(caught.value) == (
        "objective vgd needs BEV features and a mask of which camera sees which BEV cell, which the detector fcos3d "
        "does not give; distillation.objectives can be cwd_image, fitnet_image"
    )
    additive = profiles.load("w4a6", overrides=["distillation.combine=image_only"]).distillation
    refuse_missing(additive, given={"image"}, whose="the detector fcos3d")


def test_the_mask_is_not_asked_of_the_teacher() -> None:
    assert taught(profiles.load("w4a6")) == {"image", "bev_BQC"}
    words = ["distillation.objectives=[output_class,cwd_bev]"]
    assert taught(profiles.load("w4a6", overrides=words)) == {"logits_LBKC", "bev_BQC"}


@pytest.mark.parametrize(
    ("words", "name"),
    [([], "QAT+VGD"), (["distillation.objectives=[cwd_bev, output_class]"], "QAT+CWD BEV+classes")],
)
def test_tables_say_what_a_model_was_distilled_by(words: list[str], name: str) -> None:
    content = profiles.load("w4a6", overrides=words).content()
    manifest = SimpleNamespace(kind="vgd", data={}, profile=content)
    assert link_name(SimpleNamespace(manifest=manifest)) == name  # type: ignore[arg-type]


def test_the_equations_are_reached_in_the_four_doors_that_the_docs_name() -> None:
    """Each file of the list imports the next; the last one holds Eq. 6."""
    root = Path(__file__).resolve().parents[3]
    page = (root / "docs" / "vgd.md").read_text(encoding="utf-8")
    doors = re.findall(r"^\d\. `([\w/]+)\.py`", page, re.MULTILINE)
    assert (doors[0], doors[-1], len(doors)) == ("qdbev_cli/commands/distill_vgd", "qdbev/distillation/vgd", 4)
    for door, after in pairwise(doors):
        package, _, name = after.replace("/", ".").rpartition(".")
        tree = ast.parse((root / f"{door}.py").read_text(encoding="utf-8"))
        imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        modules = {node.module for node in imports} | {
            f"{node.module}.{alias.name}" for node in imports for alias in node.names
        }
        assert f"{package}.{name}" in modules, door
    assert "def view_guided_loss(" in (root / f"{doors[-1]}.py").read_text(encoding="utf-8")
