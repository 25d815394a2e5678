"""What would stop a command late is said before anything is made or read."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import profiles
from pipelines.assembly.job import Job
from pipelines.commands import calibrate, compress, distill_vgd, qat_progressive, train_float
from pipelines.costs.preflight import preflight
from pipelines.store.artifacts import MissingArtifact, Store, UnusableInput
from profiles import ProfileError
from qdbev.data.synthetic.settings import KEY_FRAME_BYTES, KEY_FRAME_BYTES_PER_PIXEL


def job(folder: Path, *words: str, model: str = "nano") -> Job:
    overrides = [f"data.cache={folder / 'cache'}", "device=cpu", *words]
    return Job(profiles.load("w4a6", model=model, overrides=overrides), Store(folder / "runs"))


def test_missing_weights_are_said_by_a_dry_run_and_refused_otherwise(tmp_path: Path) -> None:
    asked = job(tmp_path, model="tiny")
    said = preflight(asked, dry_run=True)
    assert said[0].startswith("not ready: the float weights of tiny are not in") and "import-weights FILE" in said[0]
    with pytest.raises(MissingArtifact, match="the float weights of tiny are not in"):
        preflight(asked, dry_run=False)
    assert preflight(asked, dry_run=False, weights=False) == []
    with pytest.raises(UnusableInput, match=r"model\.weights is lost\.pth, and there is no such file"):
        preflight(job(tmp_path, "model.weights=lost.pth"), dry_run=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dry_run", [True, False])
def test_a_device_that_is_not_here_is_refused_before_a_scene_is_made(tmp_path: Path, dry_run: bool) -> None:
    with pytest.raises(ProfileError, match=r"device is cuda:99, but torch sees"):
        calibrate.run(job(tmp_path, "device=cuda:99"), dry_run=dry_run)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize("command", [compress, distill_vgd, qat_progressive, train_float])
def test_a_tracker_that_is_not_installed_is_refused_before_a_scene_is_made(
    tmp_path: Path, command: Any, dry_run: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    asked = job(tmp_path, "log_with=[tensorboard,wandb]")
    with pytest.raises(ValueError, match=r"^log_with names wandb, which is not installed: `pip install wandb`$"):
        command.run(asked, dry_run=dry_run)
    assert list(tmp_path.iterdir()) == []
    assert preflight(asked, dry_run=False) == []  # a command that trains nothing asks for no tracker


@pytest.mark.parametrize("dry_run", [True, False])
def test_data_without_a_scene_of_a_split_are_refused(tiny_synthetic: Path, tmp_path: Path, dry_run: bool) -> None:
    source = tmp_path / "mini"
    shutil.copytree(tiny_synthetic / "v1.0-trainval", source / "v1.0-mini")
    asked = job(tmp_path, f"data.source={source}", "data.version=v1.0-mini")
    with pytest.raises(UnusableInput, match="holds no scene of split train"):
        preflight(asked, dry_run=dry_run)


def test_calibration_never_wants_more_samples_than_there_are(tmp_path: Path) -> None:
    few = ("data.train_scenes=2", "data.key_frames=4", "calibration.samples=9")
    with pytest.raises(ValueError, match=r"calibration\.samples is 9, but 8 training samples are there"):
        preflight(job(tmp_path, *few), dry_run=False)
    assert preflight(job(tmp_path, *few), dry_run=False, calibrates=False) == []


def test_a_full_disk_is_said_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.costs.preflight.shutil.disk_usage", lambda _: SimpleNamespace(free=10**7))
    asked = job(tmp_path, "data.train_scenes=8", "data.val_scenes=2")
    with pytest.raises(UnusableInput, match=r"10 synthetic scenes take about 30 MB in .*, where 10 MB are free"):
        preflight(asked, dry_run=False)
    said = preflight(asked, dry_run=True, evaluations=3)
    assert [text.partition(" in ")[0] for text in said[1:]] == [
        "disk: about 30 MB for 10 synthetic scenes,",
        "disk: about 0 MB for results of 3 evaluations,",
    ]


def test_scenes_that_a_command_does_not_read_take_no_room(tmp_path: Path) -> None:
    asked = job(tmp_path, "data.train_scenes=8", "data.val_scenes=2")
    said = [preflight(asked, dry_run=True, calibrates=False, evaluations=1)[0]]
    said += [preflight(asked, dry_run=True, calibrates=False, trains=True)[0], preflight(asked, dry_run=True)[0]]
    assert [text.split(" for ")[1].partition(",")[0] for text in said] == [
        "2 synthetic scenes",
        "8 synthetic scenes",
        "10 synthetic scenes",
    ]


def test_the_bytes_of_a_scene_are_those_that_scenes_have(tiny_synthetic: Path) -> None:
    settings = json.loads((tiny_synthetic / "settings.json").read_text(encoding="utf-8"))
    frames = len(list((tiny_synthetic / "scenes").iterdir())) * settings["key_frames"]
    held = sum(path.stat().st_size for path in tiny_synthetic.rglob("*") if path.is_file()) / frames
    pixels = settings["image_width_px"] * settings["image_height_px"]
    assert held == pytest.approx(KEY_FRAME_BYTES + KEY_FRAME_BYTES_PER_PIXEL * pixels, rel=0.25)
