"""Killed at any stage and started again, ``compress`` ends with the artifacts of a run that nothing disturbed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipelines.store.artifacts import Store
from qdbev_cli.app import app

STAGES = ("qat", "vgd")


@pytest.fixture(scope="module")
def command(tiny_synthetic: Path) -> list[str]:
    settings = [
        f"data.source={tiny_synthetic}",
        "data.train_scenes=3",
        "data.val_scenes=2",
        "calibration.samples=2",
        "qat.steps_per_stage=3",
        "qat.batch_size=1",
        "qat.save_every=1",
        "qat.evaluate_each_stage=false",
        "distillation.schedule.steps=3",
        "distillation.schedule.batch_size=1",
        "distillation.schedule.save_every=1",
        "distillation.auto_steps=2",
        "evaluation.bootstrap_resamples=0",
        "evaluation.max_boxes=20",
    ]
    options = [word for setting in settings for word in ("--set", setting)]
    return ["compress", "--profile", "w4a6", "--device", "cpu", *options]


@pytest.mark.parametrize("stages", [2, pytest.param(4, marks=pytest.mark.long)])
def test_killed_while_it_trains_it_ends_the_same(stages: int, command: list[str], tmp_path: Path) -> None:
    """Killed in the first stage of QAT and in distillation; of four stages, in every one."""
    words = [*command, "--stages", str(stages)]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert CliRunner().invoke(app, [*words, "--store", str(whole)]).exit_code == 0
    for stage in range(0, stages + 1, stages if stages == 2 else 1):
        _run_and_kill([*words, "--store", str(broken)], store=broken, sealed_before=stage)
    assert CliRunner().invoke(app, [*words, "--store", str(broken)]).exit_code == 0
    assert _digests(broken) == _digests(whole)


def _run_and_kill(words: list[str], *, store: Path, sealed_before: int) -> None:
    """Start the command, and SIGKILL it once a stage is under way that has so many sealed before it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "qdbev_cli", *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        if len(_sealed(store)) == sealed_before and list(store.glob(".scratch/*/state-0000000[12]-*")):
            os.kill(process.pid, signal.SIGKILL)
            break
        time.sleep(0.02)
    assert process.wait(timeout=60) == -signal.SIGKILL, f"stage {sealed_before + 1} was over before it was killed"


def _sealed(store: Path) -> list[str]:
    return [folder.name for folder in Store(store).folders() if folder.name.split("-")[0] in STAGES]


def _digests(store: Path) -> dict[str, str]:
    return {artifact.path.name: artifact.digest for artifact in Store(store).list()}
