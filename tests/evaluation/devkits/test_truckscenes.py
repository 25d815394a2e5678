"""TruckScenes' classes are scored as its own devkit scores them, where that is installed."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import profiles
from pipelines.assembly.samples import layout_of
from pipelines.assembly.scene import vehicle_of
from pipelines.scoring.rules import rules_of
from qdbev.data.nuscenes.records import read_samples
from qdbev.data.synthetic import generate
from qdbev.evaluation.devkits.truckscenes import truckscenes_scores
from qdbev.evaluation.scores import score
from qdbev.evaluation.submission import sample_result, submission

RIG = profiles.load("float", overrides=["data.rig=truckscenes"]).data.rig
VERSION = "v1.0-trainval"


def found(sample: dict[str, Any], *, rng: np.random.Generator) -> list[dict[str, Any]]:
    """The annotations of a sample moved a little, with scores, some twice, some of another class."""
    boxes = np.concatenate([sample["instances"]["bbox_3d"], np.nan_to_num(sample["instances"]["velocity"])], axis=1)
    boxes[:, 2] -= boxes[:, 5] / 2
    boxes = np.repeat(boxes, 2, axis=0) + rng.normal(0, 0.4, (2 * len(boxes), 9)) * (np.arange(9) != 5)
    boxes[:, 3:6] = np.abs(boxes[:, 3:6]) + 0.05
    labels = np.repeat(sample["instances"]["bbox_label_3d"], 2)
    labels[::7] = rng.integers(len(RIG.classes), size=len(labels[::7]))
    places = {"lidar2ego": sample["lidar2ego"], "ego2global": sample["ego2global"]}
    names = {"token": sample["token"], "classes": RIG.class_names, "rules": rules_of(RIG)}
    return sample_result(boxes, scores=rng.random(len(boxes)).round(1), labels=labels, **places, **names)


def test_its_devkit_gives_the_same_numbers(tmp_path: Path) -> None:
    pytest.importorskip("truckscenes", reason="truckscenes-devkit is not installed")
    root = tmp_path / "tree"
    vehicle = vehicle_of(RIG)
    generate(root, train_scenes=2, val_scenes=1, key_frames=3, image_size_px=(32, 24), vehicle=vehicle, workers=1)
    samples = read_samples(root, version=VERSION, layout=layout_of(RIG))
    rng = np.random.default_rng([5])
    path = tmp_path / "submission.json"
    path.write_text(json.dumps(submission({sample["token"]: found(sample, rng=rng) for sample in samples})))
    ours = score(root, version=VERSION, submission=path, rules=rules_of(RIG))
    official = truckscenes_scores(root, version=VERSION, submission=path, tokens=[row["token"] for row in samples])
    assert ours.serialize() == official.serialize()
    assert ours.mean_ap > 0.1 and ours.classes["traffic_sign"]["AP"] > 0.1


def test_its_configuration_is_the_rigs() -> None:
    pytest.importorskip("truckscenes", reason="truckscenes-devkit is not installed")
    config = importlib.import_module("truckscenes.eval.detection.config").config_factory(RIG.scored_as)
    category = importlib.import_module("truckscenes.eval.detection.utils").category_to_detection_name
    constants = importlib.import_module("truckscenes.eval.detection.constants")
    assert {row.name: row.range_m for row in RIG.classes} == config.class_range
    assert list(RIG.class_names) == list(config.class_names)
    assert all(category(name) == row.name for row in RIG.classes for name in row.categories)
    assert set(RIG.attributes) == set(constants.ATTRIBUTE_NAMES)


def test_without_its_devkit_it_is_said_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "truckscenes", None)
    with pytest.raises(ValueError, match="`pip install truckscenes-devkit`, on Python below 3"):
        truckscenes_scores(tmp_path, version=VERSION, submission=tmp_path / "x", tokens=[])
