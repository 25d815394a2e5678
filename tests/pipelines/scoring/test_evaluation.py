"""The sealed scores are the devkit's own on the sealed file, to the last bit, also where confidences tie."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from nuscenes import NuScenes
from nuscenes.eval.common.config import config_factory
from nuscenes.eval.detection.evaluate import DetectionEval

from pipelines.scoring.results_file import read_results
from pipelines.store.artifacts import Artifact
from pipelines.store.integrity import read_manifest
from qdbev.data.nuscenes.records import read_samples
from qdbev.data.nuscenes.tables import split_scenes
from qdbev.evaluation.devkits.nuscenes import quiet
from tests.conftest import TINY_VERSION

Call = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def settings(tiny_synthetic: Path) -> list[str]:
    return [f"data.source={tiny_synthetic}", "calibration.samples=2", "evaluation.streams=2"]


@pytest.fixture(scope="module")
def sealed(call: Call) -> Path:
    call("calibrate", "--profile", "w4a6")
    return Path(call("evaluate", "--profile", "w4a6")["artifact"]["path"])


def test_the_sealed_file_scored_by_the_devkits_own_command(sealed: Path, tiny_synthetic: Path, tmp_path: Path) -> None:
    text = gzip.decompress((sealed / "results_nusc.json.gz").read_bytes())
    results, submission = json.loads(text)["results"], tmp_path / "results_nusc.json"
    submission.write_bytes(text)
    confidences = Counter(entry["detection_score"] for entries in results.values() for entry in entries)
    assert max(confidences.values()) > 1  # the devkit breaks ties by the order of the file
    with quiet():
        metrics, _ = DetectionEval(
            NuScenes(TINY_VERSION, str(tiny_synthetic), verbose=False),
            config=config_factory("detection_cvpr_2019"), result_path=str(submission),
            eval_set="val", output_dir=str(tmp_path), verbose=False,
        ).evaluate()  # fmt: skip
    scores = json.loads((sealed / "scores.json").read_text())
    assert (scores["nds"], scores["mean_ap"]) == (metrics.nd_score, metrics.mean_ap)
    assert sorted(scores["errors"].values()) == sorted(metrics.tp_errors.values())
    manifest = json.loads((sealed / "manifest.json").read_text())["metrics"]
    assert (manifest["NDS"], manifest["mAP"]) == (metrics.nd_score, metrics.mean_ap)


def test_official_says_that_the_devkit_agrees(sealed: Path, call: Call) -> None:
    words = call("evaluate", "--profile", "w4a6", "--official")["messages"]
    assert "nuscenes-devkit's DetectionEval gives the same numbers, to the last bit" in words


def test_results_stand_in_the_order_of_scenes(sealed: Path, tiny_synthetic: Path) -> None:
    results = read_results(Artifact(sealed, read_manifest(sealed)))["results"]
    scenes = split_scenes(TINY_VERSION)["val"][:2]
    samples = read_samples(tiny_synthetic, version=TINY_VERSION, scenes=scenes)
    assert list(results) == [sample["token"] for sample in samples]
