"""Data of other vehicles through the commands: four cameras, twelve classes, nuScenes' tables and TruckScenes'."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import profiles
from pipelines.assembly.detector import build_detector
from pipelines.assembly.scene import countable, vehicle_of
from pipelines.store.artifacts import Store
from qdbev.data.synthetic import generate
from qdbev_cli.app import app
from tests.conftest import ROOT

Call = Callable[..., dict[str, Any]]
SHUTTLE = str(ROOT / "docs" / "examples" / "rigs" / "shuttle.yaml")
BEVDEPTH = """
model:
  detector: bevdepth
  weights: random
  image: {scale: 1.0, size_px: [96, 64]}
  backbone: {depth: 18, base_channels: 8}
  image_channels: 4
  depth: {width: 16, groups: 2}
  lift: {depths_m: [2, 42, 4], channels: 8, rows: 32, columns: 32, cell_m: 3.2}
  head: {neck_channels: 4, channels: 16}
data: {queue_length: 1}
"""


def tree(root: Path, *, rig: str) -> Path:
    """Three scenes of two frames with the sensors and names of a rig."""
    vehicle = vehicle_of(profiles.load("float", overrides=[f"data.rig={rig}"]).data.rig)
    generate(root, train_scenes=2, val_scenes=1, key_frames=2, image_size_px=(96, 64), vehicle=vehicle, workers=1)
    return root


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("trees")
    return {rig: tree(folder / Path(rig).stem, rig=rig) for rig in (SHUTTLE, "truckscenes")}


@pytest.fixture(scope="module")
def settings(mite: str) -> Iterator[list[str]]:
    yield ["calibration.samples=2", "evaluation.bootstrap_resamples=0", "data.image_size_px=[96, 64]"]


def prepared(*options: str, code: int = 0) -> dict[str, Any]:
    result = CliRunner().invoke(app, ["data", "prepare", *options, "--json"])
    assert result.exit_code == code, result.output
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def prepared_error(*options: str, code: int = 3) -> str:
    return str(prepared(*options, code=code)["error"])


def words(trees: dict[str, Path], rig: str, *, model: str) -> list[str]:
    return ["--model", model, "--set", f"data.source={trees[rig]}", "--set", f"data.rig={rig}"]


def test_a_rig_of_ones_own_is_calibrated_and_scored_as_the_devkit_scores(
    call: Call, trees: dict[str, Path], mite: str
) -> None:
    options = words(trees, SHUTTLE, model=mite)
    call("calibrate", "--profile", "w4a6", *options)
    document = call("evaluate", "--profile", "w4a6", *options, "--official")
    assert "nuscenes-devkit's DetectionEval gives the same numbers, to the last bit" in document["messages"]
    classes = next(table for table in document["tables"] if table["name"] == "classes")
    assert {row[0] for row in classes["rows"]} >= {"lorry", "digger", "person", "sign"} and len(classes["rows"]) == 12


def test_what_a_rig_is_told_before_anything_is_made(call: Call, trees: dict[str, Path], mite: str) -> None:
    options = ["--root", str(trees[SHUTTLE]), "--rig", SHUTTLE]
    ready = prepared(*options)["messages"][-1]
    assert ready.startswith(f"ready; next: qdbev train-float --profile float --model nano --set data.rig={SHUTTLE}")
    sentence = str(prepared("--root", str(trees[SHUTTLE]), code=3))
    assert "have no key frame of CAM_FRONT" in sentence and "data.rig names 6 cameras" in sentence


def test_tables_of_truckscenes_say_what_they_are(trees: dict[str, Path], tmp_path: Path) -> None:
    root = tmp_path / "trucks"
    shutil.copytree(trees["truckscenes"], root)
    for name in ("ego_motion_cabin", "ego_motion_chassis", "weather_annotation"):
        assert (root / "v1.0-trainval" / f"{name}.json").read_text(encoding="utf-8").strip() == "[]"
    sentence = prepared_error("--root", str(root))
    assert (
        "lacks the table log.json, map.json; these are the tables of TruckScenes: set data.rig=truckscenes" in sentence
    )
    (root / "v1.0-trainval" / "splits.json").unlink()
    if importlib.util.find_spec("truckscenes") is None:
        sentence = prepared_error("--root", str(root), "--rig", "truckscenes", code=2)
        assert "its devkit knows their splits" in sentence and "`pip install truckscenes-devkit`, or write" in sentence
    else:
        sentence = prepared_error("--root", str(root), "--rig", "truckscenes")
        assert "holds no scene of split train" in sentence


def test_a_detector_of_six_cameras_is_refused(call: Call, trees: dict[str, Path]) -> None:
    failed = call("evaluate", "--profile", "float", *words(trees, SHUTTLE, model="nano"), code=2)
    assert "was made for the rig nuscenes with 6 cameras, not 4 as data.rig shuttle has" in failed["error"]


def test_a_detector_of_another_rig_is_refused(
    call: Call, store: Path, trees: dict[str, Path], mite: str, tiny_synthetic: Path
) -> None:
    options = words(trees, "truckscenes", model=mite)
    made = call("evaluate", "--profile", "float", *options)
    assert made["tables"][0]["notes"] == ["2 samples of 1 scene, detection_cvpr_2024"]
    parent = Store(store).open(made["artifact"]["digest"]).manifest.parents["model"]
    here = ["--model", mite, "--set", f"data.source={tiny_synthetic}", "--set", "data.val_scenes=1"]
    failed = call("evaluate", "--profile", "float", *here, parent, code=2)
    assert "was made for the rig truckscenes with 4 cameras, not 6 as data.rig nuscenes has" in failed["error"]


def test_foreign_weights_of_another_rig_are_refused_by_its_numbers(call: Call, mite: str, tmp_path: Path) -> None:
    own = profiles.load("float", model=mite, overrides=["data.rig=truckscenes"])
    path = tmp_path / "four.pth"
    torch.save(build_detector(own.model, rig=own.data.rig).state_dict(), path)
    failed = call(f"import-weights {path}", "--model", mite, code=2)
    sentence = "it was trained for 4 cameras, not 6 and 12 classes, not 10: set data.rig to the rig"
    assert sentence in failed["error"]
    assert call(f"import-weights {path}", "--model", mite, "--set", "data.rig=truckscenes")["artifact"]


def test_depths_without_a_lidar_are_refused_and_trained_without_when_told(
    call: Call, trees: dict[str, Path], tmp_path: Path
) -> None:
    path = tmp_path / "small-bevdepth.yaml"
    path.write_text(BEVDEPTH.lstrip("\n"), encoding="utf-8")
    options = [*words(trees, SHUTTLE, model=str(path)), "--set", "float_training.steps=1"]
    options += ["--set", "float_training.batch_size=1", "--set", "float_training.auxiliary=false"]
    failed = call("train-float", "--profile", "float", *options, code=2)
    assert "data.rig has no LiDAR in whose frame boxes are" in failed["error"]
    made = call("train-float", "--profile", "float", *options, "--set", "model.depth.weight=0")
    assert made["artifact"]["kind"] == "float"


def test_costs_are_counted_for_the_rigs_cameras() -> None:
    six, four = (profiles.load("float", overrides=[f"data.rig={rig}"] if rig else []) for rig in ("", SHUTTLE))
    assert len(countable(six)[1].lidar2img_N44) == 6 and len(countable(four)[1].lidar2img_N44) == 4
