"""Epochs into steps, by hand: nuScenes as published, synthetic scenes, batches, accumulation, processes."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

import profiles
from pipelines.costs.epochs import epoch_words, epochs_of
from qdbev_cli.app import app

NUSCENES = ["data.source=/nowhere/nuscenes"]


def words(*overrides: str, epochs: float, model: str = "tiny") -> list[str]:
    return epoch_words(profiles.load("w4a6", model=model, overrides=[*NUSCENES, *overrides]), epochs=epochs)


def test_an_epoch_of_nuscenes_is_a_step_for_each_sample_of_a_batch() -> None:
    assert words(epochs=1) == ["qat.steps_per_stage=28130", "distillation.schedule.steps=28130"]
    assert words("qat.batch_size=6", "qat.accumulation=2", epochs=15)[0] == "qat.steps_per_stage=35163"  # 35,162.5
    assert words("distillation.schedule.steps=0", epochs=0.1) == ["qat.steps_per_stage=2813"]


def test_synthetic_samples_are_those_that_would_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    profile = profiles.load("w4a6", overrides=["data.train_scenes=10", "qat.batch_size=4"])
    assert epoch_words(profile, epochs=1)[0] == f"qat.steps_per_stage={10 * profile.data.key_frames // 4}"
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert epoch_words(profile, epochs=1)[0] == f"qat.steps_per_stage={10 * profile.data.key_frames // 8}"
    assert epochs_of(20, schedule=profile.qat, samples=80) == 1.0


@pytest.mark.parametrize("command", ["compress", "qat-progressive", "distill-vgd"])
def test_the_door_takes_epochs_for_steps(command: str, tmp_path: object) -> None:
    options = ["--epochs", "0.5", "--set", "data.train_scenes=10", "--store", str(tmp_path), "--dry-run", "--json"]
    done = json.loads(CliRunner().invoke(app, [command, *options]).stdout)
    profile = profiles.load("w4a6")
    steps = -(-10 * profile.data.key_frames // (2 * profile.qat.batch_size))
    assert f"{steps} steps" in " ".join(done["would_do"])


@pytest.mark.parametrize("epochs", [1e308, 1e6, float("inf"), float("nan")])
def test_more_steps_than_a_training_has_are_refused(epochs: float) -> None:
    with pytest.raises(ValueError, match="a training has at most"):
        words(epochs=epochs)
