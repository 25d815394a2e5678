"""``export onnx`` of a detector without history, and ``evaluate``: a small PETR whose images are padded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from qdbev.export.onnx.metadata import read_metadata  # noqa: E402

PETR = """model:
  detector: petr
  weights: random
  image: {height_px: 60, width_px: 150}
  augmentation: {image_scale: [1, 1], flip_probability: 0, rotation_rad: 0, world_scale: [1, 1]}
  backbone: {depth: 18, base_channels: 8, stages: 2, out_indices: [0, 1], dcn_stages: [false, false],
             frozen_stages: -1, norm_frozen: false}
  neck: {in_channels: [8, 16]}
  position: {depths: 5}
  channels: 16
  heads: 2
  hidden: 24
  dropout: 0.0
  decoder: {layers: 2}
  head: {queries: 12, query_init: grid}
data: {queue_length: 1}
"""
Call = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def usual_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("models") / "petr.yaml"
    path.write_text(PETR, encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def settings(tiny_synthetic: Path) -> list[str]:
    return [
        f"data.source={tiny_synthetic}",
        "data.train_scenes=1",
        "data.val_scenes=1",
        "calibration.samples=1",
        "evaluation.max_boxes=30",
        "evaluation.bootstrap_resamples=20",
    ]


def test_a_graph_of_petr_counts_what_the_plan_counts_and_is_scored(call: Call, model: dict[str, Any]) -> None:
    made = call("export onnx", model["path"], "--target", "qonnx")
    folder = Path(made["artifact"]["path"])
    report = json.loads((folder / "gate.json").read_text())
    assert (report["frames"], report["failure"], report["miscounted"]) == (3, "", [])
    operations = made["metrics"]["gate"]["operations"]
    assert operations["bit_operations"] == operations["macs"] * 4 * 6
    stated = read_metadata(onnx.load(folder / "model.onnx"))
    assert stated["carried"] == {} and "img2lidar" in stated["meanings"] and "prev_bev" not in stated["meanings"]
    scored = json.loads(
        (Path(call("evaluate", made["artifact"]["path"])["artifact"]["path"]) / "manifest.json").read_text()
    )
    assert (scored["data"]["runtime"], scored["parents"]["model"]) == ("ort", made["artifact"]["digest"])
