"""Every score is the devkit's, to the last bit: random tables and submissions, drawn with what its rules turn on."""

from __future__ import annotations

import gzip
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nuscenes import NuScenes
from nuscenes.eval.common.loaders import load_gt_of_sample_tokens
from nuscenes.eval.common.utils import center_distance, quaternion_yaw, velocity_l2
from nuscenes.eval.detection.data_classes import DetectionBox
from pyquaternion import Quaternion

from qdbev.evaluation import json_parts
from qdbev.evaluation.devkits.nuscenes import devkit_scores, quiet
from qdbev.evaluation.ground_truth import ground_truth
from qdbev.evaluation.pair_errors import distances, yaws
from qdbev.evaluation.rules import NUSCENES, ClassRule, Rules
from qdbev.evaluation.scores import score
from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "scripts"))

from random_scoring import VERSION, World, write_submission, write_tables

SMALL = World(scenes=2, samples=3, objects=40, boxes=40, seen=0.6)


def written(folder: Path, *, world: World, seed: int, share: float = 1.0) -> tuple[Path, list[str]]:
    """A submission file beside its tables, and the tokens of the samples."""
    tokens = write_tables(folder, world=world, seed=seed)
    path = folder / "submission.json"
    write_submission(path, root=folder, world=world, seed=seed, share=share)
    return path, tokens


@given(
    seed=st.integers(0, 2**32), grid_m=st.sampled_from([0.0, 0.5, 2.0]), levels=st.sampled_from([0, 1, 6]),
    objects=st.sampled_from([0, 3, 40]), boxes=st.sampled_from([0, 2, 50]), share=st.sampled_from([0.5, 1.0]),
)  # fmt: skip
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_devkits_scores(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int, grid_m: float, levels: int, objects: int, boxes: int, share: float,
) -> None:  # fmt: skip
    folder = tmp_path_factory.mktemp("world")
    world = World(scenes=2, samples=3, objects=objects, boxes=boxes, grid_m=grid_m, levels=levels, seen=0.6)
    path, tokens = written(folder, world=world, seed=seed, share=share)
    official = devkit_scores(folder, version=VERSION, submission=path, tokens=tokens)
    for submission in (path, json.loads(path.read_text())):
        assert score(folder, version=VERSION, submission=submission).serialize() == official.serialize()


def test_ground_truth_is_the_devkits(tmp_path: Path) -> None:
    """Box by box before the filters' sums: centre, size, rotation, velocity, points, class and attribute."""
    _, tokens = written(tmp_path, world=SMALL, seed=3)
    with quiet():
        tables = NuScenes(VERSION, str(tmp_path), verbose=False)
        boxes = load_gt_of_sample_tokens(tables, tokens, DetectionBox)
    ours = ground_truth(tmp_path, version=VERSION).boxes
    theirs = {box.translation[0]: box for box in boxes.all}
    assert len(ours) > 20 and np.isnan(ours.velocity).any()
    for row in range(len(ours)):
        box = theirs[ours.translation[row, 0]]
        assert box.sample_token == tokens[ours.sample[row]]
        np.testing.assert_array_equal(ours.velocity[row], box.velocity)
        np.testing.assert_array_equal(ours.rotation[row], box.rotation)
        assert box.num_pts == ours.points[row] > 0


def test_a_track_that_enters_the_scenes_from_elsewhere(tmp_path: Path) -> None:
    """An annotation whose neighbour belongs to a scene that is not scored still has the devkit's velocity."""
    path, tokens = written(tmp_path, world=SMALL, seed=5)
    table = tmp_path / VERSION / "sample_annotation.json"
    rows = json.loads(table.read_text())
    last = {row["sample_token"]: row for row in rows if row["num_lidar_pts"]}
    here, there = last[tokens[0]], last[tokens[3]]
    here["prev"], here["next"] = "", there["token"]
    there["translation"] = [here["translation"][0] + 50.0, *here["translation"][1:]]
    samples = tmp_path / VERSION / "sample.json"
    times = json.loads(samples.read_text())
    times[3]["timestamp"] = times[0]["timestamp"] + 1_000_000
    samples.write_text(json.dumps(times))
    table.write_text(json.dumps(rows))
    official = devkit_scores(tmp_path, version=VERSION, submission=path, tokens=tokens[:3])
    own = score(tmp_path, version=VERSION, submission=path, scenes=["scene-0000"])
    assert own.serialize() == official.serialize()
    velocity = ground_truth(tmp_path, version=VERSION, scenes=["scene-0000"]).boxes.velocity
    assert np.isclose(velocity[:, 0], 50.0).any()


def test_distances_and_headings_bit_for_bit() -> None:
    rng = np.random.default_rng(0)
    places, others = rng.normal(size=(2, 500, 2)) * 30
    rotations = rng.normal(size=(500, 4)) * rng.choice([1.0, 1e-3, 40.0], size=(500, 1))
    rotations[:3] = [[0, 0, 0, 1], [0, 0, 0, 0], [1, 0, 0, 0]]
    boxes = [
        [DetectionBox(translation=(*place, 0.0), velocity=tuple(place)) for place in side] for side in (places, others)
    ]
    both = list(zip(*boxes, strict=True))
    assert distances(others - places).tolist() == [center_distance(*pair) for pair in both]
    assert distances(others - places).tolist() == [velocity_l2(*pair) for pair in both]
    assert yaws(rotations).tolist() == [quaternion_yaw(Quaternion(rotation)) for rotation in rotations]


@pytest.mark.parametrize("part_bytes", [1, 1500, 1 << 30])
def test_parts_are_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part_bytes: int) -> None:
    path, _ = written(tmp_path, world=SMALL, seed=1, share=0.7)
    expected = score(tmp_path, version=VERSION, submission=path).serialize()
    monkeypatch.setattr(json_parts, "PART_BYTES", part_bytes)
    ground_truth.__globals__["_ground_truth"].cache_clear()
    assert score(tmp_path, version=VERSION, submission=path).serialize() == expected
    packed = tmp_path / "packed"
    packed.write_bytes(gzip.compress(path.read_bytes(), mtime=0))
    assert score(tmp_path, version=VERSION, submission=packed).serialize() == expected
    assert score(tmp_path, version=VERSION, submission=json.loads(path.read_text())).serialize() == expected
    for indent in (None, 1):
        content = json.loads(path.read_text())
        path.write_text(
            json.dumps(
                {"results": content["results"], "meta": {"note": '}], "a": [{"x": 1}, {"y": 2}]'}}, indent=indent
            )
        )
        assert score(tmp_path, version=VERSION, submission=path).serialize() == expected


def test_strings_that_look_like_separators(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_parts, "PART_BYTES", 1)
    rows: list[dict[str, Any]] = [{"token": "a}, {b"}, {"token": "c", "more": [{"x": 1}, {"x": 2}]}, {"token": "d"}]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows))
    parts = json_parts.from_rows(path, make=lambda part: [row["token"] for row in part])
    assert [token for part in parts for token in part] == ["a}, {b", "c", "d"]


def test_a_repeated_sample_counts_as_json_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last of equal keys is the value, in whichever parts they lie."""
    path, tokens = written(tmp_path, world=SMALL, seed=2)
    monkeypatch.setattr(json_parts, "PART_BYTES", 1)
    text = path.read_text()
    content = json.loads(text)
    first = json.dumps(content["results"][tokens[0]][:5])
    path.write_text(f'{text.removesuffix("}}")}, "{tokens[0]}": {first}}}}}')
    official = devkit_scores(tmp_path, version=VERSION, submission=path, tokens=tokens)
    assert score(tmp_path, version=VERSION, submission=path).serialize() == official.serialize()


def test_predictions_may_say_points_and_leave_out_scores(tmp_path: Path) -> None:
    """A prediction with 0 points does not count; one without a score has the devkit's -1."""
    path, tokens = written(tmp_path, world=SMALL, seed=4)
    content = json.loads(path.read_text())
    for entries in content["results"].values():
        for place, entry in enumerate(entries):
            entry["num_pts"] = place % 3
    path.write_text(json.dumps(content))
    official = devkit_scores(tmp_path, version=VERSION, submission=path, tokens=tokens)
    assert score(tmp_path, version=VERSION, submission=path).serialize() == official.serialize()
    del content["results"][tokens[0]][0]["detection_score"]
    assert score(tmp_path, version=VERSION, submission=content).nds > 0


def of_a_rig(**changes: Any) -> Rules:
    """nuScenes' rules with eleven classes: trailers are lorries, animals count, pedestrians have no attribute."""
    renamed = [
        replace(
            rule,
            name={"trailer": "lorry"}.get(rule.name, rule.name),
            **({"without": ("attribute",)} if rule.name == "pedestrian" else {}),
        )
        for rule in NUSCENES.classes
    ]
    animal = ClassRule("animal", 45.0, ("animal",), without=("velocity",))
    return replace(NUSCENES, name="own", classes=(*renamed, animal), **changes)


@pytest.mark.parametrize("seed", [0, 1])
def test_classes_of_ones_own_are_scored_as_the_devkit_scores_them(tmp_path: Path, seed: int) -> None:
    world, rules = replace(SMALL, levels=6), of_a_rig(max_boxes_per_sample=400)
    path, tokens = written(tmp_path, world=world, seed=seed)
    text = path.read_text().replace('"detection_name": "trailer"', '"detection_name": "lorry"')
    path.write_text(text.replace('"detection_name": "bus"', '"detection_name": "animal"'))
    official = devkit_scores(tmp_path, version=VERSION, submission=path, tokens=tokens, rules=rules)
    ours = score(tmp_path, version=VERSION, submission=path, rules=rules)
    assert ours.serialize() == official.serialize()
    assert list(ours.classes)[-2:] == ["barrier", "animal"] and "lorry" in ours.classes
    assert np.isnan(ours.classes["animal"]["AVE"]) and np.isnan(ours.classes["pedestrian"]["AAE"])
    assert ours.mean_ap == pytest.approx(np.mean([row["AP"] for row in ours.classes.values()]))


def test_the_clock_of_another_sensor_moves_the_vehicle(tmp_path: Path) -> None:
    path, tokens = written(tmp_path, world=SMALL, seed=3)
    by_camera = replace(NUSCENES, clock="CAM_FRONT")
    official = devkit_scores(tmp_path, version=VERSION, submission=path, tokens=tokens, rules=by_camera)
    assert score(tmp_path, version=VERSION, submission=path, rules=by_camera).serialize() == official.serialize()


def test_half_turns_that_the_devkit_does_not_know_are_refused(tmp_path: Path) -> None:
    symmetric = replace(NUSCENES, classes=tuple(replace(rule, half_turn=True) for rule in NUSCENES.classes))
    with pytest.raises(ValueError, match="half turn for the class barrier alone"):
        devkit_scores(tmp_path, version=VERSION, submission=tmp_path / "x", tokens=[], rules=symmetric)
