"""What stands once is said in the singular."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from qdbev_cli.app import app

WRONG = ["qat.stages=x", "qat.batch_size=x", "data.val_scenes=x", "data.train_scenes=x", "seed=x", "calibration.seed=x"]


@pytest.mark.parametrize(
    ("command", "settings", "said"),
    [
        ("profiles check w4a6", [], "1 profile is right"),
        ("profiles check w4a6 float", [], "2 profiles are right"),
        ("train-float", ["float_training.steps=1", "float_training.batch_size=1"], "scratch: 1 step of 1 sample"),
        ("calibrate", ["calibration.samples=1"], "W4A6 on 1 sample of the train split"),
        ("qat-progressive", ["qat.steps_per_stage=1"], "stage 4: quantize decoder too, train 1 step"),
        ("qat-progressive", ["qat.steps_per_stage=2"], "stage 4: quantize decoder too, train 2 steps"),
        ("distill-vgd", ["distillation.schedule.steps=1"], "from its float self: 1 step, by vgd"),
        ("sensitivity --plan", ["bit_plan.samples=1", "bit_plan.size=0.5"], "outputs on 1 training sample with"),
        ("profiles check w4a6", WRONG, "1 more field is wrong"),
    ],
)  # fmt: skip
def test_numbers_and_their_nouns(tmp_path: Path, command: str, settings: list[str], said: str) -> None:
    words = command.split()
    if words[0] != "profiles":
        settings = [*settings, f"data.cache={tmp_path}"]
        words += ["--dry-run", "--device", "cpu", "--store", str(tmp_path / "runs")]
    result = CliRunner().invoke(app, [*words, *(word for one in settings for word in ("--set", one))])
    assert re.search(rf"{re.escape(said)}\b", result.output), result.output
