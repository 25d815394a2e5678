"""Whole trees: read by the devkit, the same however they are made, refused when damaged."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from filelock import FileLock
from nuscenes import NuScenes
from nuscenes.can_bus.can_bus_api import NuScenesCanBus
from nuscenes.eval.common.config import config_factory
from nuscenes.eval.detection.evaluate import DetectionEval
from nuscenes.eval.detection.utils import category_to_detection_name
from nuscenes.utils import splits
from nuscenes.utils.data_classes import LidarPointCloud
from nuscenes.utils.geometry_utils import points_in_box
from pyquaternion import Quaternion

from qdbev.data.synthetic import generate, verify
from qdbev.data.synthetic.files import tree as files
from qdbev.data.synthetic.shapes.catalogue import CLASSES

VERSION = "v1.0-trainval"
SMALL = {"key_frames": 2, "image_size_px": (88, 48), "workers": 1}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("synthetic") / "tree"
    generate(root, train_scenes=1, val_scenes=5, workers=1)
    return root


@pytest.fixture(scope="module")
def nuscenes(tree: Path) -> NuScenes:
    return NuScenes(VERSION, str(tree), verbose=False)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("synthetic") / "small"
    generate(root, train_scenes=1, val_scenes=1, sweeps="val", **SMALL)
    return root


def contents(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_annotations_as_predictions_score_one(nuscenes: NuScenes, tmp_path: Path) -> None:
    results: dict[str, list[dict]] = {}
    val = {s["token"] for s in nuscenes.scene if s["name"] in splits.val}
    for sample in (s for s in nuscenes.sample if s["scene_token"] in val):
        results[sample["token"]] = [_prediction(nuscenes, token) for token in sample["anns"]]
    meta = {f"use_{m}": m == "camera" for m in ("camera", "lidar", "radar", "map", "external")}
    path = tmp_path / "submission.json"
    path.write_text(json.dumps({"meta": meta, "results": results}))
    config = config_factory("detection_cvpr_2019")
    scorer = DetectionEval(nuscenes, config, str(path), "val", str(tmp_path), verbose=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # mean of no velocities, where a thing was seen once
        metrics = scorer.evaluate()[0].serialize()
    seen = {c for c in CLASSES if metrics["mean_dist_aps"][c] > 0}
    assert seen == set(CLASSES)
    assert metrics["mean_ap"] == pytest.approx(1.0, abs=0.01)
    assert metrics["nd_score"] == pytest.approx(1.0, abs=0.01)


def _prediction(nuscenes: NuScenes, token: str) -> dict:
    row = nuscenes.get("sample_annotation", token)
    attributes = [nuscenes.get("attribute", t)["name"] for t in row["attribute_tokens"]]
    return {
        "sample_token": row["sample_token"],
        "translation": row["translation"],
        "size": row["size"],
        "rotation": row["rotation"],
        "velocity": np.nan_to_num(nuscenes.box_velocity(token)[:2]).tolist(),
        "detection_name": category_to_detection_name(row["category_name"]),
        "detection_score": 0.9,
        "attribute_name": attributes[0] if attributes else "",
    }


def test_lidar_points_in_each_box_are_as_many_as_its_row_says(nuscenes: NuScenes) -> None:
    differences, total = 0, 0
    for sample in nuscenes.sample[::5]:
        token = sample["data"]["LIDAR_TOP"]
        path, boxes, _ = nuscenes.get_sample_data(token)
        points = LidarPointCloud.from_file(path).points[:3]
        for box in boxes:
            said = nuscenes.get("sample_annotation", box.token)["num_lidar_pts"]
            found = int(points_in_box(box, points).sum())
            total += said
            differences += abs(found - said)
    assert total > 500 and differences <= 0.02 * total


def test_boxes_lie_on_their_pixels(nuscenes: NuScenes, tree: Path) -> None:
    """Orange cones in clear light: the pixels at the projected centre of a near cone are redder than they are blue."""
    redder = []
    for sample in nuscenes.sample:
        for channel in ("CAM_FRONT", "CAM_FRONT_LEFT", "CAM_FRONT_RIGHT", "CAM_BACK"):
            path, boxes, intrinsic = nuscenes.get_sample_data(sample["data"][channel])
            image = cv2.imread(path)
            for box in boxes:
                row = nuscenes.get("sample_annotation", box.token)
                near = 4 < box.center[2] < 16 and row["visibility_token"] == "4"
                if box.name == "movable_object.trafficcone" and near:
                    x, y, z = intrinsic @ box.center
                    u, v = int(x / z), int(y / z)
                    if 2 <= u < image.shape[1] - 2 and 2 <= v < image.shape[0] - 2:
                        patch = image[v - 2 : v + 3, u - 1 : u + 2].astype(float).mean((0, 1))
                        redder.append(patch[2] > patch[0] + 10)
    assert len(redder) >= 5 and np.mean(redder) > 0.8


def test_can_bus_agrees_with_the_ego_poses(nuscenes: NuScenes, tree: Path) -> None:
    api = NuScenesCanBus(str(tree))
    for scene in nuscenes.scene:
        for name in api.all_messages:
            assert api.get_messages(scene["name"], name, print_warnings=False)
        assert {row["steering_speed"] for row in api.get_messages(scene["name"], "vehicle_monitor")} == {0.0}
        messages = api.get_messages(scene["name"], "pose")
        assert np.diff([m["utime"] for m in messages]).tolist() == [20000] * (len(messages) - 1)
        sample = nuscenes.get("sample", scene["first_sample_token"])
        data = nuscenes.get("sample_data", sample["data"]["LIDAR_TOP"])
        pose = nuscenes.get("ego_pose", data["ego_pose_token"])
        nearest = min(messages, key=lambda m: abs(m["utime"] - sample["timestamp"]))
        np.testing.assert_allclose(nearest["pos"][:2], pose["translation"][:2], atol=0.15)
        assert abs((Quaternion(nearest["orientation"]).inverse * Quaternion(pose["rotation"])).radians) < 0.02
        step = np.subtract(messages[40]["pos"], messages[30]["pos"])[:2] / 0.2
        assert np.linalg.norm(step) == pytest.approx(messages[35]["vel"][0], abs=0.3)


def test_chains_of_all_sensors_run_in_time(small: Path) -> None:
    nuscenes = NuScenes(VERSION, str(small), verbose=False)
    scene = next(s for s in nuscenes.scene if s["name"] == "scene-0003")
    sample = nuscenes.get("sample", scene["first_sample_token"])
    for channel, token in sample["data"].items():
        rows = [nuscenes.get("sample_data", token)]
        while rows[-1]["next"]:
            rows.append(nuscenes.get("sample_data", rows[-1]["next"]))
            assert rows[-1]["prev"] == rows[-2]["token"]
        assert len(rows) == (2 if channel == "LIDAR_TOP" else 7), channel  # 5 sweeps between two key frames
        assert [r["is_key_frame"] for r in rows][:: len(rows) - 1] == [True, True]
        gaps = np.diff([r["timestamp"] for r in rows])
        np.testing.assert_allclose(gaps, 500_000 / (len(rows) - 1), atol=1)
        assert all((small / r["filename"]).exists() for r in rows)
    train = next(s for s in nuscenes.scene if s["name"] == "scene-0001")
    first = nuscenes.get("sample", train["first_sample_token"])
    front = nuscenes.get("sample_data", first["data"]["CAM_FRONT"])
    assert nuscenes.get("sample_data", front["next"])["is_key_frame"]


def test_boxes_of_sweeps_are_interpolated_by_the_devkit(small: Path) -> None:
    nuscenes = NuScenes(VERSION, str(small), verbose=False)
    sweeps = [r for r in nuscenes.sample_data if not r["is_key_frame"]]
    assert len(sweeps) == 30 and all(r["filename"].startswith("sweeps/") for r in sweeps)
    after = nuscenes.get("sample", sweeps[0]["sample_token"])
    assert after["prev"] and sweeps[0]["timestamp"] < after["timestamp"]
    assert len(nuscenes.get_boxes(sweeps[0]["token"])) > 0


def test_images_have_the_size_that_was_asked_for(small: Path, tmp_path: Path) -> None:
    assert cv2.imread(str(next((small / "samples/CAM_BACK").iterdir()))).shape == (48, 88, 3)
    generate(tmp_path / "large", train_scenes=1, val_scenes=0, key_frames=2, image_size_px=(400, 225), workers=1)
    assert cv2.imread(str(next((tmp_path / "large/samples/CAM_BACK").iterdir()))).shape == (225, 400, 3)
    rows = [json.loads((r / VERSION / "sample_annotation.json").read_text()) for r in (small, tmp_path / "large")]
    boxes = [{a["token"] for a in r} for r in rows]
    shared = len(boxes[1] & boxes[0])
    assert shared > 0.8 * len(boxes[1])  # the world does not depend on the image size, only what counts as seen


def test_a_second_call_changes_nothing(small: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in small.rglob("*") if p.is_file()}
    summary = generate(small, train_scenes=1, val_scenes=1, sweeps="val", **SMALL)
    assert summary == verify(small)
    assert before == {p: p.stat().st_mtime_ns for p in small.rglob("*") if p.is_file()}


def test_growing_only_goes_on_listing_what_is_there(small: Path) -> None:
    summary = generate(small, train_scenes=0, val_scenes=1, sweeps="val", grow_only=True, **SMALL)
    assert (summary.train_scenes, summary.val_scenes) == (1, 1)


def test_processes_growth_and_interruption_change_nothing(small: Path, tmp_path: Path) -> None:
    root = tmp_path / "grown"
    settings = {**SMALL, "sweeps": "val"}
    generate(root, train_scenes=1, val_scenes=0, **settings)
    (root / "scenes" / "scene-0001.json").unlink()  # as if killed while it rendered this scene again
    next((root / "samples/CAM_BACK").iterdir()).write_bytes(b"half")
    summary = generate(root, train_scenes=1, val_scenes=1, **{**settings, "workers": 2})
    assert summary == verify(small)
    assert contents(root) == contents(small)


@pytest.mark.parametrize("dies_in", ["write_text", "mkdir", "replace"])
def test_a_call_killed_at_its_very_start_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies_in: str) -> None:
    """Before settings.json is written, when folders are made after it, and between its writing and its renaming."""
    root = tmp_path / "tree"
    original = Path.mkdir

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    def die_at_the_second_folder(folder: Path, *arguments: object, **keywords: object) -> None:
        if folder == root / "maps":
            die()
        original(folder, *arguments, **keywords)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        if dies_in == "replace":
            patch.setattr(os, "replace", die)
        else:
            patch.setattr(Path, dies_in, die if dies_in == "write_text" else die_at_the_second_folder)
        generate(root, train_scenes=1, val_scenes=0, **SMALL)
    summary = generate(root, train_scenes=1, val_scenes=0, **SMALL)
    assert summary == verify(root)
    assert not [path for path in root.iterdir() if path.name.startswith(".")]


def test_one_process_at_a_time(tmp_path: Path) -> None:
    root = tmp_path / "new" / "tree"
    (tmp_path / "new").mkdir()
    call = threading.Thread(target=generate, args=(root,), kwargs={"train_scenes": 1, "val_scenes": 0, **SMALL})
    with FileLock(tmp_path / "new" / ".tree.lock"):
        call.start()
        call.join(0.5)
        assert call.is_alive() and not root.exists()
    call.join(120)
    assert verify(root).train_scenes == 1
    assert [path.name for path in tmp_path.joinpath("new").iterdir() if path != root] == [".tree.lock"]


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder that takes no files")
def test_a_place_that_takes_no_files_is_an_error_at_once() -> None:
    with pytest.raises(OSError, match="No such file or directory"):
        generate("/proc/tree", version="v1.0-trainval", train_scenes=1, val_scenes=0)


def test_a_whole_tree_that_cannot_be_locked_is_still_read(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(FileLock, "acquire", refuse)
    assert generate(small, train_scenes=1, val_scenes=1, sweeps="val", **SMALL) == verify(small)


@pytest.mark.slow
def test_the_processes_of_a_killed_call_end_and_the_next_call_goes_on(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    words = "import sys; from pathlib import Path; from qdbev.data.synthetic import generate; "
    words += f"generate(Path(sys.argv[1]), train_scenes=6, val_scenes=0, **{ {**SMALL, 'workers': 2} })"
    call = subprocess.Popen([sys.executable, "-c", words, str(root)], start_new_session=True)
    while not list(root.glob("samples/CAM_FRONT/*")):
        assert call.poll() is None
        time.sleep(0.05)
    call.kill()
    call.wait()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and _members(call.pid):
        time.sleep(0.2)
    try:
        assert _members(call.pid) == []
    finally:
        for process in _members(call.pid):
            os.kill(process, signal.SIGKILL)
    assert generate(root, train_scenes=1, val_scenes=0, **SMALL) == verify(root)


def _members(session: int) -> list[int]:
    """Processes of a session that still run."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(entry.parent.name))
    return found


def test_another_seed_gives_other_scenes(small: Path, tmp_path: Path) -> None:
    other = generate(tmp_path / "other", train_scenes=1, val_scenes=0, seed=1, **SMALL)
    assert other.digest != generate(tmp_path / "same", train_scenes=1, val_scenes=0, **SMALL).digest
    assert other.train_scenes == 1


def test_other_settings_are_refused(small: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"seed: 0, asked 5"):
        generate(small, train_scenes=1, val_scenes=1, seed=5, sweeps="val", **SMALL)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    with pytest.raises(ValueError, match="not empty"):
        generate(tmp_path / "full", train_scenes=1, val_scenes=0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"train_scenes": 701}, r"train_scenes is 701, expected 0\.\.700"),
        ({"train_scenes": 0}, "at least one scene"),
        ({"key_frames": 1}, "key_frames is 1"),
        ({"sweeps": "some"}, "none, val, all"),
        ({"image_size_px": (1601, 900)}, "1601x900"),
    ],
)
def test_impossible_settings_are_named(tmp_path: Path, wrong: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generate(tmp_path / "tree", **{"train_scenes": 1, "val_scenes": 0, **wrong})
    assert not (tmp_path / "tree").exists()


def _cut_image(root: Path) -> None:
    path = next((root / "samples/CAM_FRONT").iterdir())
    path.write_bytes(path.read_bytes()[:-9])


DAMAGES: dict[str, Callable[[Path], None]] = {
    "synthetic.json is missing": lambda root: (root / "synthetic.json").unlink(),
    "scene-0003.json is missing": lambda root: (root / "scenes/scene-0003.json").unlink(),
    "fragments in scenes/ differ": lambda root: (root / "scenes/scene-0003.json").write_text('{"files": {}}'),
    "sample_annotation.json is missing": lambda root: (root / VERSION / "sample_annotation.json").unlink(),
    "ego_pose.json is not as written": lambda root: (root / VERSION / "ego_pose.json").write_text("[]"),
    "CAM_FRONT/.* has .* bytes, expected": _cut_image,
    "LIDAR_TOP/.* is missing": lambda root: next((root / "samples/LIDAR_TOP").iterdir()).unlink(),
    "no JSON": lambda root: (root / "synthetic.json").write_text("{"),
}


@pytest.mark.parametrize("listed", [True, False], ids=["its list", "no list, as in trees of before"])
@pytest.mark.parametrize("message", DAMAGES)
def test_damage_is_named(small: Path, tmp_path: Path, message: str, listed: bool) -> None:
    root = tmp_path / "damaged"
    shutil.copytree(small, root)
    if not listed:
        (root / "files.json").unlink()
    DAMAGES[message](root)
    with pytest.raises(ValueError, match=message):
        verify(root)


def test_a_whole_tree_is_checked_by_its_list_of_files(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A fragment holds every row of its scene: reading 700 of them takes each command seconds."""
    root = tmp_path / "copy"
    shutil.copytree(small, root)
    expected = verify(root)
    with monkeypatch.context() as patch:
        patch.setattr(files, "read_fragment", None)
        assert verify(root) == expected
    (root / "files.json").write_text("{}")  # not as it was sealed: the fragments count
    _cut_image(root)
    with pytest.raises(ValueError, match=r"CAM_FRONT/.* has .* bytes, expected"):
        verify(root)


def test_an_empty_folder_is_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no synthetic data set"):
        verify(tmp_path)
