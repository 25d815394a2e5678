"""data prepare: counts, where the motion is from, and what is missing; the test split gives a submission alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from nuscenes.utils.splits import create_splits_scenes
from typer.testing import CliRunner

from qdbev_cli.app import app
from tests.conftest import TINY_VERSION


def invoke(*words: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, [*words, "--json"])
    assert result.exit_code == code, result.output
    return result.stdout if code == 0 else result.output


def copied(source: Path, *, target: Path) -> Path:
    shutil.copytree(source, target)
    return target


def test_prepare_counts_every_split_and_says_where_motion_is_from(tiny_synthetic: Path, tmp_path: Path) -> None:
    root = copied(tiny_synthetic, target=tmp_path / "nuscenes")
    metrics = json.loads(invoke("data", "prepare", "--root", str(root)))["metrics"]
    assert {name: split["scenes"] for name, split in metrics.items()} == {"train": 3, "val": 2}
    assert metrics["train"]["key frames"] == 12 and metrics["train"]["boxes"] > 0
    assert metrics["val"]["scenes with CAN bus"] == 2
    shutil.rmtree(root / "can_bus")
    document = json.loads(invoke("data", "prepare", "--root", str(root)))
    assert document["metrics"]["val"]["scenes with CAN bus"] == 0
    assert any("motion of 0 of 5 scenes from the CAN bus" in sentence for sentence in document["messages"])


def test_prepare_counts_missing_images_by_camera(tiny_synthetic: Path, tmp_path: Path) -> None:
    root = copied(tiny_synthetic, target=tmp_path / "nuscenes")
    for camera, count in (("CAM_FRONT", 2), ("CAM_BACK", 1)):
        for path in sorted((root / "samples" / camera).iterdir())[:count]:
            path.unlink()
    output = invoke("data", "prepare", "--root", str(root), code=3)
    assert "camera images are missing" in output and "CAM_FRONT" in output and "unpack" in output


def test_prepare_lists_findings_and_is_ready_only_without_errors(tiny_synthetic: Path, tmp_path: Path) -> None:
    root = copied(tiny_synthetic, target=tmp_path / "nuscenes")
    table = root / TINY_VERSION / "sample_annotation.json"
    rows = json.loads(table.read_text())
    for row in rows[:5]:
        row["size"] = [0.0, 1.0, 1.0]
    table.write_text(json.dumps(rows))
    result = CliRunner().invoke(app, ["data", "prepare", "--root", str(root), "--json"])
    document = json.loads(result.stdout)
    assert result.exit_code == 3 and not document["ok"]
    assert [finding["token"] for finding in document["findings"]] == [row["token"] for row in rows[:5]]
    assert {(finding["code"], finding["table"]) for finding in document["findings"]} == {("size", "sample_annotation")}
    assert document["messages"] == ["not ready: 5 errors (size 5); --json lists all"]
    (shown,) = document["tables"]
    assert len(shown["rows"]) == 3 and shown["notes"] == ["size: 5 in all"]


def test_own_splits(tiny_synthetic: Path, tmp_path: Path) -> None:
    root = copied(tiny_synthetic, target=tmp_path / "nuscenes")
    table = root / TINY_VERSION / "scene.json"
    scenes = json.loads(table.read_text())
    for number, scene in enumerate(scenes):
        scene["name"] = f"drive-{number}"
    table.write_text(json.dumps(scenes))
    output = " ".join(invoke("data", "prepare", "--root", str(root), code=3).split())
    assert "'drive-0', 'drive-1'" in output and "splits.json" in output
    splits = {"train": ["drive-0", "drive-1"], "val": ["drive-2"], "night": ["drive-3"]}
    (root / TINY_VERSION / "splits.json").write_text(json.dumps(splits))
    metrics = json.loads(invoke("data", "prepare", "--root", str(root)))["metrics"]
    assert {name: split["scenes"] for name, split in metrics.items()} == {"train": 2, "val": 1, "night": 1}


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        ([], 2, "name it with --root"),
        (["--root", "nowhere"], 3, "no nuScenes version"),
        (["--root", "nowhere", "--version", "v2"], 2, "use v1.0-trainval, v1.0-mini or v1.0-test"),
    ],
)
def test_prepare_says_what_it_needs(words: list[str], code: int, sentence: str) -> None:
    assert sentence in " ".join(invoke("data", "prepare", *words, code=code).split())


def test_the_test_split_gives_a_submission_without_scores(tiny_synthetic: Path, tmp_path: Path) -> None:
    root, version = copied(tiny_synthetic, target=tmp_path / "nuscenes"), "v1.0-test"
    (root / TINY_VERSION).rename(root / version)
    scene_table = root / version / "scene.json"
    scenes = json.loads(scene_table.read_text())[:2]
    for scene, name in zip(scenes, create_splits_scenes()["test"], strict=False):
        shutil.copy(root / "can_bus" / f"{scene['name']}_pose.json", root / "can_bus" / f"{name}_pose.json")
        scene["name"] = name
    scene_table.write_text(json.dumps(scenes))
    (root / version / "sample_annotation.json").write_text("[]")
    (root / version / "instance.json").write_text("[]")
    settings = [f"data.source={root}", f"data.version={version}", "evaluation.split=test", "evaluation.max_boxes=20"]
    options = [word for setting in settings for word in ("--set", setting)]
    store = ["--store", str(tmp_path / "runs"), "--device", "cpu"]
    document = json.loads(invoke("evaluate", "--profile", "float", *options, *store))
    assert "NDS" not in document["metrics"] and document["tables"] == []
    folder = Path(document["artifact"]["path"])
    results = json.loads((folder / "results_nusc.json").read_text())["results"]
    assert len(results) == 8 and all(len(boxes) == 20 for boxes in results.values())
    assert not (folder / "scores.json").exists()
    refused = invoke("evaluate", "--official", "--profile", "float", *options, *store, code=2)
    assert "no public ground truth" in " ".join(refused.split())
    refused = invoke("sensitivity", "--profile", "w4a6", *options, *store, code=2)
    assert "no public ground truth" in " ".join(refused.split())


def mini(source: Path, *, root: Path, without: str) -> Path:
    """A tree that calls itself v1.0-mini, with its scene names, and without boxes of one category."""
    (copied(source, target=root) / TINY_VERSION).rename(root / "v1.0-mini")
    folder, splits = root / "v1.0-mini", create_splits_scenes()
    scenes = json.loads((folder / "scene.json").read_text())
    known = {True: iter(splits["mini_val"]), False: iter(splits["mini_train"])}
    for scene in scenes:
        scene["name"] = next(known[scene["name"] in splits["val"]])
    (folder / "scene.json").write_text(json.dumps(scenes))
    categories = {row["token"]: row["name"] for row in json.loads((folder / "category.json").read_text())}
    gone = {row["token"] for row in json.loads((folder / "instance.json").read_text())
            if categories[row["category_token"]] == without}  # fmt: skip
    for name, field in (("instance", "token"), ("sample_annotation", "instance_token")):
        rows = [row for row in json.loads((folder / f"{name}.json").read_text()) if row[field] not in gone]
        (folder / f"{name}.json").write_text(json.dumps(rows))
    return root


def test_mini_says_what_classes_without_ground_truth_do_to_nds(tiny_synthetic: Path, tmp_path: Path, mite: str) -> None:
    root = mini(tiny_synthetic, root=tmp_path / "mini", without="vehicle.car")
    prepared = json.loads(invoke("data", "prepare", "--root", str(root), "--version", "v1.0-mini"))
    (sentence,) = [text for text in prepared["messages"] if text.startswith("split val has no box with a point")]
    assert "car" in sentence and "so mAP is at most 0." in sentence
    words = [f"data.source={root}", "data.version=v1.0-mini", "evaluation.bootstrap_resamples=0"]
    options = [word for setting in words for word in ("--set", setting)]
    store = ["--store", str(tmp_path / "runs"), "--device", "cpu", "--model", mite]
    document = json.loads(invoke("evaluate", "--profile", "float", *options, *store))
    (said,) = [text for text in document["messages"] if "no ground truth in" in text]
    assert "of 10 classes have no ground truth in 8 samples (car" in said
    assert f"not {document['metrics']['NDS']:.4f}" in said
    again = json.loads(invoke("evaluate", "--profile", "float", *options, *store))
    assert said in again["messages"]  # also where it was scored before


def test_contents_say_of_each_table_and_sensor_what_is_used(tiny_synthetic: Path, tmp_path: Path) -> None:
    root = copied(tiny_synthetic, target=tmp_path / "nuscenes")
    shutil.rmtree(root / "can_bus")
    sweeps = sorted((root / "samples" / "LIDAR_TOP").iterdir())
    sweeps[0].unlink()
    sweeps[1].write_bytes(b"")
    sensors = root / TINY_VERSION / "sensor.json"
    radar = {"token": "r", "channel": "RADAR_FRONT", "modality": "radar"}
    sensors.write_text(json.dumps([*json.loads(sensors.read_text()), radar]))
    document = json.loads(invoke("data", "prepare", "--root", str(root)))
    uses = {(row["code"], row["name"]): row for row in document["contents"]}
    assert uses["table-used", "attribute"]["number"] == "mAAE, NDS"
    assert uses["table-ignored", "visibility"]["number"] == "none"
    assert uses["table-missing", "can_bus"]["sentence"].startswith("5 of 5 scenes have none")
    assert uses["sensor-used", "CAM_BACK"]["sentence"] == "images of 176x96"
    assert "its pose is the frame of all boxes" in uses["sensor-used", "LIDAR_TOP"]["sentence"]
    assert uses["sensor-missing", "LIDAR_TOP"]["sentence"].startswith("2 of 20 files are missing or empty")
    assert uses["sensor-missing", "LIDAR_TOP"]["number"] == "depth loss of BEVDepth"
    assert uses["sensor-ignored", "RADAR_FRONT"]["sentence"] == "no detector here reads radar (radar)"
    shown = next(table for table in document["tables"] if table["name"] == "contents")
    assert not any(row[0].endswith("-used") for row in shown["rows"])
