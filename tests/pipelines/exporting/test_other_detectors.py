"""``export onnx`` and ``evaluate`` of other detectors than BEVFormer: a small PETR with padded images, a BEVDet4D."""

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
BEVDET4D = """model:
  detector: bevdet
  weights: random
  image: {scale: 1.0, size_px: [160, 64]}
  backbone: {depth: 18, base_channels: 8}
  image_channels: 16
  lift: {depths_m: [2, 42, 8], channels: 8, rows: 16, columns: 16, cell_m: 6.4}
  ground: {channels: [8, 8, 8], neck_channels: 8}
  head: {channels: 8}
  frames_back: 1
data: {queue_length: 2}
"""
MODELS = {"petr": PETR, "bevdet4d": BEVDET4D}
TOLD = {"petr": "img2lidar", "bevdet4d": "prev_depths"}
Call = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module", params=MODELS)
def usual_model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("models") / f"{request.param}.yaml"
    path.write_text(MODELS[request.param], encoding="utf-8")
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


def test_a_graph_counts_what_the_plan_counts_and_is_scored(call: Call, model: dict[str, Any], usual_model: str) -> None:
    made = call("export onnx", model["path"], "--target", "qonnx")
    folder = Path(made["artifact"]["path"])
    report = json.loads((folder / "gate.json").read_text())
    assert (report["frames"], report["failure"], report["miscounted"]) == (3, "", [])
    operations = made["metrics"]["gate"]["operations"]
    assert operations["bit_operations"] == operations["macs"] * 4 * 6
    stated = read_metadata(onnx.load(folder / "model.onnx"))
    kind = Path(usual_model).stem
    carried = {} if kind == "petr" else {"depths": "prev_depths", "features": "prev_features"}
    assert stated["carried"] == carried and TOLD[kind] in stated["meanings"] and "prev_bev" not in stated["meanings"]
    assert (stated["ranges"].get("lift"), stated["lift"] is None) == (
        (None, True) if kind == "petr" else ([-51.2, -51.2, -10.0, 51.2, 51.2, 10.0], False)
    )
    scored = json.loads(
        (Path(call("evaluate", made["artifact"]["path"])["artifact"]["path"]) / "manifest.json").read_text()
    )
    assert (scored["data"]["runtime"], scored["parents"]["model"]) == ("ort", made["artifact"]["digest"])
