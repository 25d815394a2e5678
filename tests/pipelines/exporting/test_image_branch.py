"""``export`` of a detector that is known by its mmdet3d config: packed whole, and its image branch as a graph."""

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

EXAMPLES = Path(__file__).parents[3] / "docs" / "examples"
Call = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def usual_model() -> str:
    return str(EXAMPLES / "fcos3d.yaml")


@pytest.fixture(scope="module")
def settings(tiny_synthetic: Path) -> list[str]:
    return [
        f"data.source={tiny_synthetic}",
        "data.train_scenes=1",
        "data.val_scenes=1",
        "calibration.samples=1",
        "evaluation.max_boxes=30",
        "evaluation.bootstrap_resamples=0",
    ]


@pytest.fixture(scope="module")
def exported(call: Call, model: dict[str, Any]) -> dict[str, Any]:
    return call("export onnx", model["path"])


def test_it_was_run_and_says_that_it_is_the_image_branch(exported: dict[str, Any], model: dict[str, Any]) -> None:
    (said,) = exported["messages"]
    assert said.startswith("run for 3 frames: 26 taps agree with the detector; it is the image branch alone, backbone")
    folder = Path(exported["artifact"]["path"])
    report = json.loads((folder / "gate.json").read_text())
    assert (report["frames"], report["failure"], report["free_boxes"]) == (3, "", None)
    assert max(report["outputs"].values()) < 1e-4 and list(report["outputs"]) == ["level_0", "level_1", "level_2"]
    fates = [layer["fate"] for layer in report["layers"]]
    assert (fates.count("integers"), fates.count("float")) == (25, 1)  # the first, of three channels
    graph = onnx.load(folder / "model.onnx")
    stated = read_metadata(graph)
    assert (stated["holds"], stated["modules"], stated["left_out"]) == ("image branch", ["backbone", "neck"], [])
    assert stated["normalisation"]["mean"] == pytest.approx([123.675, 116.28, 103.53])
    assert (stated["artifact"], stated["quantization"]) == (model["digest"], "W4A6")
    assert not {"classes", "image", "ranges", "lift"} & set(stated)
    assert {tensor.data_type for tensor in graph.graph.initializer if tensor.name.startswith("neck.")} >= {
        onnx.TensorProto.INT4
    }
    ports = [[side.dim_value for side in port.type.tensor_type.shape.dim] for port in graph.graph.input]
    assert ports == [[6, 3, 96, 192]]  # six cameras, padded to the multiple of 32 that the config asks for


def test_it_has_no_boxes_to_score_and_is_not_timed(call: Call, exported: dict[str, Any]) -> None:
    path = exported["artifact"]["path"]
    refused = call("evaluate", path, code=2)["error"]
    assert "is an image branch, which gives feature maps and has no boxes to score: evaluate the artifact" in refused
    timed = call("report", "--measure", "--export", path, code=2)["error"]
    assert "FCOSMono3D cannot run part by part" in timed


def test_qonnx_counts_what_the_plan_counts_of_the_branch(call: Call, model: dict[str, Any]) -> None:
    made = call("export onnx", model["path"], "--target", "qonnx", "--strip-metadata")
    operations = made["metrics"]["gate"]["operations"]
    assert operations["bit_operations"] == operations["macs"] * 4 * 6 > 0
    assert read_metadata(onnx.load(Path(made["artifact"]["path"]) / "model.onnx")) == {}


@pytest.mark.slow
@pytest.mark.parametrize("target", ["openvino", "tensorrt", "qnn"])
def test_other_targets_take_it_too(call: Call, model: dict[str, Any], target: str) -> None:
    if target == "openvino":
        pytest.importorskip("openvino")
    made = call("export onnx", model["path"], "--target", target)
    report = json.loads((Path(made["artifact"]["path"]) / "gate.json").read_text())
    assert (report["failure"], report["breaches"], len(report["taps"])) == ("", [], 26)


def test_an_operator_that_a_target_is_too_old_for_is_a_sentence() -> None:
    node = onnx.helper.make_node("Gelu", ["x"], ["y"])
    ports = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2]) for name in ("x", "y")]
    graph = onnx.helper.make_graph([node], "one", ports[:1], ports[1:])
    older = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 19)], ir_version=9)
    with pytest.raises(ValueError, match="there is no graph of this detector for tensorrt: No Op registered for Gelu"):
        exporting._check(older, target="tensorrt")


def test_all_of_it_is_packed(call: Call, model: dict[str, Any], tmp_path: Path) -> None:
    made = call("export packed", model["path"], "--out", str(tmp_path / "packed"))
    assert made["artifact"]["kind"] == "packed"
    assert "bit for bit" in call("export packed", model["path"], "--check", str(tmp_path / "packed"))["messages"][0]


def test_a_detector_that_sees_no_images_is_refused(call: Call) -> None:
    lidar = ("--model", str(EXAMPLES / "centerpoint.yaml"))
    calibrated = call("calibrate", *lidar)["artifact"]
    refused = call("export onnx", calibrated["path"], *lidar, code=2)["error"]
    assert "centerpoint sees no images, so it has no image branch to be exported" in refused
