"""Distilling by several objectives: resumed to the bit, weights recorded, the teacher's files changing nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import profiles
from pipelines.assembly.job import Job
from pipelines.calibration.calibrated import calibrated
from pipelines.store.artifacts import Artifact, Store
from pipelines.training import distillation
from pipelines.training.distillation import distil
from profiles import Profile
from qdbev_cli.app import app

Load = Callable[..., Profile]
SEVERAL = "distillation.objectives=[vgd,cwd_bev,output_class]"


class Killed(Exception):
    """Stands for a kill between two steps."""


@pytest.fixture(scope="module")
def load(tiny_synthetic: Path, mite: str, tmp_path_factory: pytest.TempPathFactory) -> Load:
    cache = tmp_path_factory.mktemp("cache")

    def loaded(*words: str, at: Path = cache) -> Profile:
        settings = [
            f"data.source={tiny_synthetic}",
            f"data.cache={at}",
            "data.train_scenes=1",
            "calibration.samples=2",
            "distillation.schedule.steps=3",
            "distillation.schedule.batch_size=1",
            "distillation.schedule.save_every=1",
            "distillation.schedule.log_every=1",
            "distillation.schedule.photometric=false",
            "distillation.schedule.grid_mask_probability=0",
            "distillation.auto_steps=2",
        ]
        return profiles.load("w4a6", model=mite, overrides=[*settings, *words], device="cpu")

    return loaded


@pytest.fixture(scope="module")
def parent(load: Load, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """What is distilled: the calibrated detector, every part quantized."""
    return calibrated(Job(load(), Store(tmp_path_factory.mktemp("calibrated")))).artifact


@pytest.fixture
def start(parent: Artifact, tmp_path: Path) -> tuple[Store, Artifact]:
    """An empty store, and what is distilled into it."""
    return Store(tmp_path / "runs"), parent


def curve(artifact: Artifact) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(artifact.file("curve.json").read_text())
    return rows


@pytest.mark.slow
def test_stopped_while_several_weights_are_being_set_ends_the_same(
    load: Load, start: tuple[Store, Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, parent = start
    profile, calls = load(SEVERAL), list[int]()
    original = distillation.weighed

    def stopping(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise Killed
        return original(*args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(distillation, "weighed", stopping)
        with pytest.raises(Killed):
            distil(Job(profile, store), parent=parent)
    broken, message = distil(Job(profile, store), parent=parent)
    other = Store(tmp_path / "other")
    whole, _ = distil(Job(profile, other), parent=parent)
    assert broken.digest == whole.digest and curve(broken) == curve(whole)

    metrics = whole.manifest.metrics
    rows = curve(whole)
    for name in ("vgd", "cwd_bev", "output_class"):
        assert f"weight of {name} " in message
        first = rows[:2]
        detection = [
            row["loss"] - sum(value for key, value in row.items() if key.endswith("_weighted")) for row in first
        ]
        expected = 0.05 * sum(detection) / sum(abs(row[name]) for row in first)
        assert metrics[f"{name}_weight"] == pytest.approx(expected, rel=1e-4)
        assert rows[2][f"{name}_weighted"] == pytest.approx(expected * rows[2][name], rel=1e-4)


@pytest.mark.slow
def test_the_result_is_the_same_whether_the_teachers_files_are_there_or_not_and_close_to_live(
    load: Load, start: tuple[Store, Artifact], tmp_path: Path
) -> None:
    store, parent = start
    words = (SEVERAL, "distillation.schedule.batch_size=2", "distillation.schedule.steps=2")
    kept = load(*words, "distillation.cache_teacher=auto", at=tmp_path / "cache")
    cold, message = distil(Job(kept, store), parent=parent)
    assert "teacher features of 4 samples are kept in" in message
    files = sorted((tmp_path / "cache").glob("teacher/*/*.safetensors"))
    assert len(files) == 4
    files[0].write_bytes(files[0].read_bytes()[:-5])
    warm, _ = distil(Job(kept, store, force=True), parent=parent)
    assert warm.digest == cold.digest
    live, message = distil(Job(load(*words), store), parent=parent)
    assert "teacher" not in message and live.manifest.key != cold.manifest.key
    for one, other in zip(curve(cold), curve(live), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-3)
        assert set(one) == set(other)


def test_a_detector_without_what_an_objective_needs_is_refused_in_a_sentence(
    load: Load, start: tuple[Store, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    from qdbev.detectors.bevformer import BEVFormer

    original = BEVFormer.loss_with_features

    def without_view(self: BEVFormer, inputs: Any, samples: Any) -> Any:
        losses, features = original(self, inputs, samples)
        return losses, replace(features, bev_mask_BNQD=None, logits_LBKC=None)

    monkeypatch.setattr(BEVFormer, "loss_with_features", without_view)
    store, parent = start
    with pytest.raises(ValueError, match=r"objective vgd needs a mask .* the detector mite does not give"):
        distil(Job(load(), store), parent=parent)
    with pytest.raises(ValueError, match=r"objective output_box needs class scores"):
        distil(Job(load("distillation.objectives=[cwd_bev,output_box]"), store), parent=parent)


def test_the_control_without_distillation_has_no_objective(load: Load, start: tuple[Store, Artifact]) -> None:
    store, parent = start
    longer, message = distil(Job(load("distillation.schedule.steps=1"), store), parent=parent, distilled=False)
    assert longer.manifest.kind == "qat-longer" and "weight" not in message
    assert not [name for name in longer.manifest.metrics if name.endswith("_weight")]
    assert not [name for name in curve(longer)[0] if "vgd" in name]


def test_a_dry_run_says_the_objectives_and_what_would_be_kept(tmp_path: Path) -> None:
    words = [f"data.cache={tmp_path}", SEVERAL, "data.train_scenes=10", "distillation.cache_teacher=auto"]
    options = ["--store", str(tmp_path), "--json", *(each for word in words for each in ("--set", word))]
    for command in ("distill-vgd", "compress"):
        result = CliRunner().invoke(app, [command, "--dry-run", *options])
        assert result.exit_code == 0, result.output
        plan = " ".join(json.loads(result.stdout)["would_do"])
        assert f"teacher features of 80 samples are kept in {tmp_path}/teacher, about 0.075 GB in float32" in plan
        assert command == "compress" or "60 steps, by vgd, cwd_bev, output_class" in plan


@pytest.mark.parametrize("command", ["distill-vgd", "compress"])
def test_a_teacher_that_cannot_be_kept_is_refused_before_anything_is_trained(command: str, tmp_path: Path) -> None:
    words = ["distillation.cache_teacher=always", "distillation.schedule.photometric=true"]
    options = ["--store", str(tmp_path), *(each for word in words for each in ("--set", word))]
    result = CliRunner().invoke(app, [command, *options])
    assert result.exit_code == 2
    assert "but distillation.schedule.photometric is true" in " ".join(result.output.split())
    assert Store(tmp_path).list() == []
