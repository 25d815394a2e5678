"""Killed in any stage and started again, ``compress`` ends with the artifacts of a run that nothing disturbed."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipelines.store.artifacts import Store
from qdbev_cli.app import app
from tests.apart import exit_code, start

STAGES = 2
TRAINED = ("qat", "vgd")


@pytest.fixture(scope="module")
def command(tiny_synthetic: Path, mite: str) -> list[str]:
    settings = [
        f"data.source={tiny_synthetic}",
        "data.train_scenes=3",
        "data.val_scenes=1",
        "calibration.samples=1",
        "quantization.training_observer=minmax",
        "qat.steps_per_stage=2",
        "qat.batch_size=1",
        "qat.save_every=1",
        "qat.evaluate_each_stage=false",
        "distillation.schedule.steps=4",
        "distillation.schedule.batch_size=1",
        "distillation.schedule.save_every=1",
        "distillation.auto_steps=2",
        "evaluation.bootstrap_resamples=0",
        "evaluation.max_boxes=20",
    ]
    options = [word for setting in settings for word in ("--set", setting)]
    return ["compress", "--model", mite, "--stages", str(STAGES), "--device", "cpu", *options]


def test_killed_in_every_stage_and_in_distillation_it_ends_the_same(command: list[str], tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert CliRunner().invoke(app, [*command, "--store", str(whole)]).exit_code == 0
    for sealed in range(STAGES + 1):
        _run_and_kill([*command, "--store", str(broken)], store=broken, sealed_before=sealed)
    assert CliRunner().invoke(app, [*command, "--store", str(broken)]).exit_code == 0
    assert _digests(broken) == _digests(whole)
    for name in _sealed(broken):
        assert "losses.csv" in Store(broken).open(name).manifest.files
        assert list((broken / "_tensorboard" / name).glob("events.out.tfevents.*"))


def _run_and_kill(words: list[str], *, store: Path, sealed_before: int) -> None:
    """Start the command, and SIGKILL it once a stage is under way that has so many sealed before it."""
    process = start(words)
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.is_alive():
        if len(_sealed(store)) == sealed_before and list(store.glob(".scratch/*/state-0000000[12]-*")):
            process.kill()
            break
        time.sleep(0.005)
    assert exit_code(process) == -signal.SIGKILL, f"stage {sealed_before + 1} was over before it was killed"


def _sealed(store: Path) -> list[str]:
    return [folder.name for folder in Store(store).folders() if folder.name.split("-")[0] in TRAINED]


def _digests(store: Path) -> dict[str, str]:
    return {artifact.path.name: artifact.digest for artifact in Store(store).list()}
