"""Scores on the synthetic data set: its own annotations are perfect, and what is broken is named."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qdbev.data.nuscenes.layout import CLASSES
from qdbev.data.nuscenes.records import read_samples
from qdbev.data.nuscenes.tables import available_scenes, split_scenes
from qdbev.evaluation.ground_truth import ground_truth
from qdbev.evaluation.rules import NUSCENES
from qdbev.evaluation.scores import score
from qdbev.evaluation.submission import sample_result, submission

VERSION = "v1.0-trainval"


@pytest.fixture(scope="module")
def val_scenes(tiny_synthetic: Path) -> list[str]:
    known = set(split_scenes(VERSION)["val"])
    return [name for name in available_scenes(tiny_synthetic, version=VERSION) if name in known]


@pytest.fixture(scope="module")
def samples(tiny_synthetic: Path, val_scenes: list[str]) -> list[dict[str, Any]]:
    return read_samples(tiny_synthetic, version=VERSION, scenes=val_scenes)


def annotations(sample: dict[str, Any], *, moved_m: float = 0.0) -> list[dict[str, Any]]:
    """The valid annotations of a sample as predictions with bottom centres, all of score one."""
    found = sample["instances"]
    boxes = np.concatenate([found["bbox_3d"], np.nan_to_num(found["velocity"])], axis=1)
    boxes[:, 2] -= boxes[:, 5] / 2
    boxes[:, 0] += moved_m
    return sample_result(
        boxes, scores=np.ones(len(boxes)), labels=found["bbox_label_3d"], token=sample["token"],
        lidar2ego=sample["lidar2ego"], ego2global=sample["ego2global"],
    )  # fmt: skip


def test_annotations_are_a_perfect_submission(
    tiny_synthetic: Path, samples: list[dict[str, Any]], val_scenes: list[str]
) -> None:
    """Every class with ground truth has AP 1 and next to no error; absent classes count as 0, as the devkit has it."""
    content = submission({sample["token"]: annotations(sample) for sample in samples})
    for entries in content["results"].values():  # the attribute rule guesses; here the annotated one is wanted
        for entry in entries:
            entry["attribute_name"] = ""
    result = score(tiny_synthetic, version=VERSION, submission=content, scenes=val_scenes)
    truth = ground_truth(tiny_synthetic, version=VERSION, scenes=val_scenes)
    present = {NUSCENES.class_names[label] for label in truth.boxes.label}
    timed = {
        NUSCENES.class_names[label] for label in truth.boxes.label[np.isfinite(truth.boxes.velocity).all(axis=1)]
    }  # seen twice
    assert {"car", "pedestrian"} <= timed
    for name in CLASSES:
        row = result.classes[name]
        assert row["AP"] == pytest.approx(1.0 if name in present else 0.0, abs=1e-9), name
        if name in present:
            errors = np.nan_to_num([row[key] for key in ("ATE", "ASE", "AOE")])
            assert (errors < [1e-6, 1e-6, 1e-3]).all(), (name, row)
        if name in timed:
            assert not row["AVE"] > 1e-2, (name, row)  # NaN where nuScenes asks no velocity
    assert result.samples == len(samples)
    assert result.mean_ap == pytest.approx(len(present) / 10)


def test_a_metre_off_costs_the_strict_thresholds(
    tiny_synthetic: Path, samples: list[dict[str, Any]], val_scenes: list[str]
) -> None:
    content = submission({sample["token"]: annotations(sample, moved_m=1.5) for sample in samples})
    result = score(tiny_synthetic, version=VERSION, submission=content, scenes=val_scenes)
    # AP 0 or little at 0.5 m and 1 m, near 1 at 2 m and 4 m
    assert 0.4 < result.classes["car"]["AP"] < 0.7
    assert result.classes["car"]["ATE"] == pytest.approx(1.5, abs=0.1)


def test_an_empty_submission_scores_zero(
    tiny_synthetic: Path, samples: list[dict[str, Any]], val_scenes: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    result = score(
        tiny_synthetic, version=VERSION, submission=submission({s["token"]: [] for s in samples}), scenes=val_scenes
    )
    assert result.nds == 0 and result.mean_ap == 0 and result.errors["mATE"] == 1
    assert capsys.readouterr() == ("", "")


def test_broken_submissions_are_named(
    tiny_synthetic: Path, samples: list[dict[str, Any]], val_scenes: list[str], tmp_path: Path
) -> None:
    def refuse(content: Any, pattern: str) -> None:
        with pytest.raises(ValueError, match=pattern):
            score(tiny_synthetic, version=VERSION, submission=content, scenes=val_scenes)

    whole = submission({sample["token"]: annotations(sample) for sample in samples})
    first = samples[0]["token"]
    fewer = copy.deepcopy(whole)
    del fewer["results"][first]
    refuse(fewer, f"lacks 1 of {len(samples)} samples, first {first}")
    refuse(
        copy.deepcopy(whole) | {"results": whole["results"] | {first: whole["results"][first][:1] * 501}}, "501 boxes"
    )
    bad = copy.deepcopy(whole)
    bad["results"][first][0]["detection_name"] = "tank"
    refuse(bad, "does not accept.*tank")
    astray = copy.deepcopy(whole)
    astray["results"][first][0]["sample_token"] = samples[1]["token"]
    refuse(astray, f"stands under sample {first}")
    short = copy.deepcopy(whole)
    short["results"][first][0]["velocity"] = [1.0]
    refuse(short, "a velocity takes 2 numbers")
    unknown = copy.deepcopy(whole)
    unknown["results"][first][0]["size"] = [1.0, float("nan"), 1.0]
    refuse(unknown, "is NaN")
    refuse({"meta": {}}, "results")
    refuse(tmp_path / "nothing.json", "cannot be read")
    (tmp_path / "half.json").write_text('{"results": {')
    refuse(tmp_path / "half.json", "not JSON")
    with pytest.raises(ValueError, match="scene-9999"):
        score(tiny_synthetic, version=VERSION, submission=whole, scenes=["scene-9999"])
    with pytest.raises(ValueError, match="no nuScenes tables"):
        score(tmp_path, version=VERSION, submission=whole)


def test_samples_outside_the_scenes_are_ignored(
    tiny_synthetic: Path, samples: list[dict[str, Any]], val_scenes: list[str]
) -> None:
    content = submission({sample["token"]: annotations(sample) for sample in samples})
    one = [sample for sample in samples if sample["scene"] == val_scenes[0]]
    small = submission({sample["token"]: annotations(sample) for sample in one})
    scores = [
        score(tiny_synthetic, version=VERSION, submission=item, scenes=val_scenes[:1]) for item in (content, small)
    ]
    assert scores[0].flat() == scores[1].flat() and scores[0].samples == len(one)
