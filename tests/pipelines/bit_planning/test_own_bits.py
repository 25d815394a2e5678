"""Bits of their own for every layer: what they may spend, and that nothing is trained."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import profiles
from pipelines.assembly.job import Job
from pipelines.bit_planning import own_bits
from pipelines.bit_planning.own_bits import with_own_bits
from pipelines.commands import compress
from pipelines.store.artifacts import Store
from profiles import Profile


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Profile]:
    """The profiles that a plan was made for; the float detector takes 8 and the uniform one 0.5 GBOPS."""
    noted: list[Profile] = []

    def cost(gbops: float) -> Any:
        return SimpleNamespace(manifest=SimpleNamespace(metrics={"gbops": {"total": gbops}}))

    def plan(job: Job) -> Any:
        noted.append(job.profile)
        return SimpleNamespace(artifact=SimpleNamespace(digest="d" * 64))

    monkeypatch.setattr(own_bits, "float_artifact", lambda job: None)
    monkeypatch.setattr(own_bits, "evaluate_artifact", lambda job, model: cost(8.0))
    monkeypatch.setattr(own_bits, "calibrated", lambda job: SimpleNamespace(artifact=cost(0.5)))
    monkeypatch.setattr(own_bits, "bit_plan_of", plan)
    return noted


@pytest.mark.parametrize(("name", "size"), [("w4a6", 4 / 32), ("w8a8", 8 / 32)])
def test_a_plan_may_spend_what_the_uniform_profile_spends(
    asked: list[Profile], tmp_path: Path, name: str, size: float
) -> None:
    mixed = with_own_bits(Job(profiles.load(name), Store(tmp_path))).stated
    assert asked[0].bit_plan.budgets == {"size": size, "bops": 0.0625}
    assert mixed.quantization.plan == "d" * 64
    assert (mixed.qat.steps(), mixed.distillation.schedule.steps) == (0, 0)


def test_a_budget_that_is_stated_is_kept(asked: list[Profile], tmp_path: Path) -> None:
    with_own_bits(Job(profiles.load("w4a6", overrides=["bit_plan.size=0.2"]), Store(tmp_path)))
    assert asked[0].bit_plan.budgets == {"size": 0.2}


def test_what_no_plan_can_be_made_of_is_refused(asked: list[Profile], tmp_path: Path) -> None:
    profile = profiles.load("w4a6", overrides=["calibration.method=gptq"])
    with pytest.raises(ValueError, match="losses are measured with method ptq alone, not gptq"):
        with_own_bits(Job(profile, Store(tmp_path)))
    assert asked == []


def test_a_dry_run_says_that_nothing_is_trained(tmp_path: Path) -> None:
    steps = compress.run(Job(profiles.load("w4a6"), Store(tmp_path)), own_bits=True, dry_run=True).would_do
    assert steps[0] == "evaluate the float nano and calibrate it to W4A6: what may be spent"
    assert steps[1].startswith("choose bits for every layer within that, from ")
    assert [step for step in steps if step.startswith("stage")] and not any("distil" in step for step in steps)
    assert all("train 0 steps" in step for step in steps if step.startswith("stage"))
