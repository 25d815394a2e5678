"""What goes wrong with a nuScenes of one's own, through the shell: one sentence each, and nothing half-made stays."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from pipelines.lineage.stated import shipped_weights
from pipelines.scoring.results_file import read_results
from pipelines.store.artifacts import Store
from pipelines.store.locations import ZOO
from qdbev_cli.app import app
from tests.conftest import TINY_VERSION

SETTINGS = [
    "data.train_scenes=2",
    "data.val_scenes=2",
    "calibration.samples=2",
    "quantization.training_rounding=nearest",
    "quantization.training_observer=minmax",
    "evaluation.max_boxes=30",
    "evaluation.bootstrap_resamples=0",
    "float_training.steps=2",
    "float_training.batch_size=2",
    "qat.steps_per_stage=1",
    "qat.batch_size=1",
]
Table = list[dict[str, Any]]


@pytest.fixture
def root(tiny_synthetic: Path, tmp_path: Path) -> Path:
    """A nuScenes of one's own, to break."""
    return Path(shutil.copytree(tiny_synthetic, tmp_path / "nuscenes"))


def invoke(root: Path, store: Path, *words: str, code: int = 0) -> dict[str, Any]:
    options = [word for setting in [*SETTINGS, f"data.source={root}"] for word in ("--set", setting)]
    common = ["--store", str(store), "--device", "cpu", "--json"]
    result = CliRunner().invoke(app, [words[0], *options, *common, *words[1:]])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def refused(root: Path, store: Path, *words: str, code: int = 3) -> str:
    """The one sentence, after checking that at most the float weights it began with came into the store, whole."""
    before = contents(store)
    sentence: str = invoke(root, store, *words, code=code)["error"]
    assert "\n" not in sentence
    new = set(contents(store)) - set(before)
    assert all(Store(store).open(name).manifest.kind == "float" for name in new)
    return sentence


def contents(store: Path) -> list[str]:
    """Artifacts and whatever else would be left behind; the state a run resumes from lies in folders with a dot."""
    return sorted(path.name for path in store.glob("*") if not path.name.startswith(".")) if store.is_dir() else []


def change(root: Path, name: str, change: Callable[[Table], Table]) -> None:
    path = root / TINY_VERSION / f"{name}.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


def images(root: Path, split: str = "val") -> list[Path]:
    """Front images of a split, in order."""
    from qdbev.data.nuscenes.records import read_samples
    from qdbev.data.nuscenes.tables import available_scenes, split_scenes

    here = set(available_scenes(root, version=TINY_VERSION))
    names = [name for name in split_scenes(TINY_VERSION)[split] if name in here]
    samples = read_samples(root, version=TINY_VERSION, scenes=names)
    return [root / sample["images"]["CAM_FRONT"]["img_path"] for sample in samples]


# -- 1: the version -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words", [["evaluate"], ["calibrate"], ["train-float"], ["compress"], ["compress", "--dry-run"]]
)
def test_another_version_than_the_folder_holds(root: Path, tmp_path: Path, words: list[str]) -> None:
    words = [*words, "--set", "data.version=v1.0-mini", "--set", "evaluation.split=mini_val"]
    sentence = refused(root, tmp_path / "runs", *words)
    assert sentence == (
        f"no nuScenes version 'v1.0-mini' in {root} (found {TINY_VERSION}); give the root that holds v1.0-mini/."
    )


# -- 2: the CAN bus -------------------------------------------------------------------------------------------------


def test_without_can_bus_motion_is_from_ego_poses_and_each_command_says_so(
    root: Path, tmp_path: Path, mite: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = tmp_path / "runs"
    with_messages = invoke(root, store, "evaluate", "--profile", "float")
    shutil.rmtree(root / "can_bus")
    scored = invoke(root, store, "evaluate", "--profile", "float")
    assert scored["artifact"]["digest"] != with_messages["artifact"]["digest"]
    further = [invoke(root, store, command, "--model", mite) for command in ("calibrate", "train-float")]
    made = [with_messages, scored, *further]
    opened = [Store(store).open(each["artifact"]["digest"]).manifest for each in made]
    assert not any("CAN bus" in note for note in opened[0].notes)
    note = "no CAN bus for 2 of 2 scenes: their motion is from ego poses"
    assert all(note in manifest.notes for manifest in opened[1:])
    said = [message for message in caplog.messages if not message.startswith("lint: ")]
    assert said == [note] * 3  # once a command, not once a split
    assert scored["metrics"]["NDS"] == pytest.approx(with_messages["metrics"]["NDS"], abs=0.05)


# -- 3 and 4: images ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["evaluate", "train-float"])
def test_a_missing_camera_file(root: Path, tmp_path: Path, command: str) -> None:
    path = images(root, split="val" if command == "evaluate" else "train")[1]
    path.unlink()
    sentence = refused(root, tmp_path / "runs", command, "--profile", "float")
    assert f"1 of 48 camera images are missing in {root} (CAM_FRONT 1), first {path}; unpack" in sentence


@pytest.mark.parametrize("command", ["evaluate", "train-float"])
@pytest.mark.parametrize("kept", [0.5, 0.0])
def test_a_corrupt_jpeg(root: Path, tmp_path: Path, command: str, kept: float) -> None:
    for path in images(root, split="val" if command == "evaluate" else "train"):
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * kept)])
    sentence = refused(root, tmp_path / "runs", command, "--profile", "float")
    assert str(root / "samples" / "CAM_FRONT") in sentence and "is truncated or not an image" in sentence
    assert "unpack" in sentence


# -- 5 and 6: scenes and samples without content --------------------------------------------------------------------


@pytest.fixture
def hollow(root: Path) -> Path:
    """One train and one val scene have no key frame any more, the first key frame of each other scene no box."""
    from qdbev.data.nuscenes.tables import split_scenes

    scenes = json.loads((root / TINY_VERSION / "scene.json").read_text())
    groups = [[one for one in scenes if one["name"] in split_scenes(TINY_VERSION)[name]] for name in ("train", "val")]
    empty = {group[0]["token"] for group in groups}
    first = {scene["first_sample_token"] for scene in scenes}
    nothing = {"nbr_samples": 0, "first_sample_token": "", "last_sample_token": ""}
    change(root, "scene", lambda rows: [row | (nothing if row["token"] in empty else {}) for row in rows])
    gone = {
        row["token"] for row in json.loads((root / TINY_VERSION / "sample.json").read_text())
        if row["scene_token"] in empty
    }  # fmt: skip
    change(root, "sample", lambda rows: [row for row in rows if row["token"] not in gone])
    change(root, "sample_data", lambda rows: [row for row in rows if row["sample_token"] not in gone])
    change(root, "sample_annotation", lambda rows: _linked([r for r in rows if r["sample_token"] not in gone | first]))
    return root


def _linked(rows: Table) -> Table:
    """Annotations without links to those that are gone."""
    known = {row["token"] for row in rows}
    return [row | {side: row[side] if row[side] in known else "" for side in ("prev", "next")} for row in rows]


@pytest.mark.slow
@pytest.mark.parametrize("can_bus", [True, False])
def test_an_empty_scene_and_samples_without_boxes_just_work(
    hollow: Path, tmp_path: Path, mite: str, can_bus: bool
) -> None:
    if not can_bus:
        shutil.rmtree(hollow / "can_bus")
    store = tmp_path / "runs"
    scored = invoke(hollow, store, "evaluate", "--profile", "float")
    results = read_results(Store(store).open(scored["artifact"]["digest"]))["results"]
    assert len(results) == 4 and 0 < scored["metrics"]["NDS"] < 1
    words = ["--set", "float_training.batch_size=1", "--set", "float_training.steps=4"]
    trained = invoke(hollow, store, "train-float", "--model", mite, "--profile", "float", *words)
    assert trained["metrics"]["steps"] == 4 and trained["metrics"]["skipped_steps"] == 0
    if can_bus:
        invoke(hollow, store, "qat-progressive", "--model", mite, "--profile", "w4a6", "--stages", "1")


@pytest.mark.parametrize("command", ["evaluate", "train-float"])
def test_nothing_to_find_at_all_is_refused(root: Path, tmp_path: Path, command: str) -> None:
    change(root, "sample_annotation", lambda rows: [])
    change(root, "instance", lambda rows: [])
    assert refused(root, tmp_path / "runs", command, "--profile", "float").startswith("no box counts: of 0 annotations")


NDS_PLAN = ("--plan", "--budget", "size=0.2", "--set", "bit_plan.criterion=nds", "--set", "bit_plan.scenes=2")


@pytest.mark.parametrize(
    "words", [("evaluate", "--profile", "float"), ("sensitivity",), ("sensitivity", *NDS_PLAN)], ids=" ".join
)
def test_boxes_beyond_every_range_are_refused_before_prediction(
    root: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    """Points they have, but the devkit's own filter leaves none."""
    far = {"translation": [1e5, 1e5, 0.0]}
    change(root, "sample_annotation", lambda rows: [row | far for row in rows])
    sentence = refused(root, tmp_path / "runs", *words)
    assert sentence.startswith("no box counts in the 2 scenes to score")


def test_a_score_from_the_store_says_so_and_follows_the_pixels(root: Path, tmp_path: Path) -> None:
    store = tmp_path / "runs"
    first = invoke(root, store, "evaluate", "--profile", "float")
    assert not any("scored before" in message for message in first["messages"])
    again = invoke(root, store, "evaluate", "--profile", "float")
    assert again["artifact"]["digest"] == first["artifact"]["digest"]
    assert any(message.startswith("scored before, at 20") for message in again["messages"])
    path = images(root)[0]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))  # in place, at equal size
    changed = invoke(root, store, "evaluate", "--profile", "float")
    assert changed["artifact"]["digest"] != first["artifact"]["digest"]


def test_what_the_detector_predicts_beyond_the_ranges_is_counted(root: Path, tmp_path: Path) -> None:
    scored = invoke(root, tmp_path / "runs", "evaluate", "--profile", "float")
    data = Store(tmp_path / "runs").open(scored["artifact"]["digest"]).manifest.data
    assert isinstance(data["left_out"], dict) and isinstance(data["boxes"], int)
    assert data["boxes"] + sum(data["left_out"].values()) == 8 * 30
    assert any("of 240 predicted boxes do not count" in message for message in scored["messages"])


def test_a_split_without_any_key_frame(root: Path, tmp_path: Path) -> None:
    nothing = {"nbr_samples": 0, "first_sample_token": "", "last_sample_token": ""}
    change(root, "scene", lambda rows: [row | nothing for row in rows])
    for name in ("sample", "sample_data", "sample_annotation", "instance"):
        change(root, name, lambda rows: [])
    for command in ("evaluate", "train-float"):
        sentence = refused(root, tmp_path / "runs", command, "--profile", "float")
        split = "val" if command == "evaluate" else "train"
        assert f"scenes of split {split} in {root} holds a key frame" in sentence


# -- 7: weights of another variant ----------------------------------------------------------------------------------


def test_weights_of_another_variant(root: Path, tmp_path: Path) -> None:
    shipped = shipped_weights("nano")
    assert shipped is not None and shipped.path.parent == ZOO
    state = load_file(shipped.path / "model.safetensors")
    save_file(state, tmp_path / "own.safetensors")
    torch.save({"state_dict": state, "meta": {}}, tmp_path / "own.pth")
    store = tmp_path / "runs"
    for source in (tmp_path / "own.safetensors", tmp_path / "own.pth", shipped.path):
        words = ["calibrate", "--model", "tiny", "--set", f"model.weights={source}"]
        sentence = refused(root, store, *words, code=2)
        assert "does not fit this model: tensors " in sentence and "of another shape (" in sentence
        assert sentence.endswith("; its sizes are those of nano: --model nano") and len(sentence) < 1200
    sentence = refused(root, store, "import-weights", str(tmp_path / "own.pth"), "--model", "tiny", code=2)
    assert sentence.endswith("; its sizes are those of nano: --model nano")
