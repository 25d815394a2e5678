"""``export onnx``: a graph that was run before it is sealed, and that ``evaluate`` scores."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from pipelines.exporting import onnx as exporting  # noqa: E402
from qdbev.export.onnx.metadata import read_metadata  # noqa: E402

Call = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def settings(tiny_synthetic: Path) -> list[str]:
    return [
        f"data.source={tiny_synthetic}",
        "data.train_scenes=3",
        "data.val_scenes=1",
        "calibration.samples=2",
        "evaluation.max_boxes=30",
        "evaluation.bootstrap_resamples=20",
    ]


@pytest.fixture(scope="module")
def model(call: Call) -> dict[str, Any]:
    artifact: dict[str, Any] = call("calibrate")["artifact"]
    return artifact


@pytest.fixture(scope="module")
def exported(call: Call, model: dict[str, Any]) -> dict[str, Any]:
    made = call("export onnx", model["path"])
    assert made["artifact"]["kind"] == "onnx"
    assert made["messages"] == ["run for 3 frames: 83 taps agree with the detector"]
    return made


def test_the_file_says_what_it_is(exported: dict[str, Any], model: dict[str, Any]) -> None:
    graph = onnx.load(Path(exported["artifact"]["path"]) / "model.onnx")
    stated = read_metadata(graph)
    assert (stated["model"], stated["quantization"], stated["artifact"]) == ("nano", "W4A6", model["digest"])
    assert stated["classes"][:2] == ["car", "truck"] and stated["carried"] == {"bev": "prev_bev"}
    assert stated["score"] is None  # the artifact was not evaluated
    assert stated["image"]["to_rgb"] is True and stated["ranges"]["bev"][0] == -40.96
    assert all(port.doc_string for port in (*graph.graph.input, *graph.graph.output))


def test_the_gate_report_is_sealed_with_it(exported: dict[str, Any]) -> None:
    report = json.loads((Path(exported["artifact"]["path"]) / "gate.json").read_text())
    assert (report["frames"], len(report["taps"]), report["failure"]) == (3, 83, "")
    # layers from grid to grid, and linear ones, multiply integers; convolutions before a sum multiply floats
    fates = [layer["fate"] for layer in report["layers"]]
    assert (fates.count("integers"), fates.count("float"), fates.count("changed")) == (70, 13, 0)


def test_evaluate_runs_the_graph(call: Call, exported: dict[str, Any], model: dict[str, Any]) -> None:
    of_graph, of_model = call("evaluate", exported["artifact"]["path"]), call("evaluate", model["path"])
    assert abs(of_graph["metrics"]["NDS"] - of_model["metrics"]["NDS"]) < 0.05  # 4 frames
    assert of_graph["artifact"]["digest"] != of_model["artifact"]["digest"]


def test_what_fails_leaves_the_report_alone(
    call: Call, model: dict[str, Any], store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(lowered: Any) -> Any:
        scale = next(each for each in lowered.model.graph.initializer if each.name == "img_backbone.conv1.weight_scale")
        doubled = onnx.numpy_helper.to_array(scale) * 2
        scale.CopyFrom(onnx.numpy_helper.from_array(doubled, scale.name))
        return lowered

    honest = exporting.runtime_graph
    monkeypatch.setattr(exporting, "runtime_graph", lambda graph: cut(honest(graph)))
    before = {path.name for path in store.iterdir()}
    failed = call("export onnx", model["path"], "--strip-metadata", code=3)
    assert "at img_backbone.layer1.0.conv1.input_quantizer the graph differs by up to" in failed["error"]
    assert {path.name for path in store.iterdir()} - before <= {"_gates"}
    (left,) = (store / "_gates").iterdir()
    assert json.loads(left.read_text())["failure"] in failed["error"]


def test_only_a_quantized_detector_is_exported(call: Call, exported: dict[str, Any]) -> None:
    refused = call("export onnx", exported["artifact"]["path"], code=2)
    assert "only a quantized detector can be exported" in refused["error"]
