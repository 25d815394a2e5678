"""``export onnx``: a graph that was run before it is sealed, and that ``evaluate`` scores."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import profiles
from pipelines.assembly.detector import build_detector
from pipelines.assembly.job import Job
from pipelines.assembly.samples import load_split
from pipelines.store.artifacts import Store

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from pipelines.exporting import onnx as exporting  # noqa: E402
from qdbev.data.nuscenes.layout import CLASSES  # noqa: E402
from qdbev.export.onnx.execution import OrtSession  # noqa: E402
from qdbev.export.onnx.metadata import read_metadata  # noqa: E402

EXAMPLE = Path(__file__).resolve().parents[3] / "docs" / "examples" / "run_onnx.py"
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
    # all layers multiply integers but the first convolution, of three channels
    fates = [layer["fate"] for layer in report["layers"]]
    assert (fates.count("integers"), fates.count("float"), fates.count("changed")) == (82, 1, 0)


def test_sixty_lines_of_numpy_find_the_same_boxes(
    exported: dict[str, Any], settings: list[str], tmp_path: Path
) -> None:
    profile = profiles.load("w4a6", overrides=settings)
    frame = exporting.frame_of(build_detector(profile.model), profile=profile)
    split = load_split(profile.data, name="train")
    sequence = exporting.first_frames(frame, split=split, profile=profile)
    frames = tmp_path / "frames.npz"
    np.savez(frames, **{name: np.concatenate([feeds[name] for feeds in sequence]) for name in sequence[0]})
    graph = Path(exported["artifact"]["path"]) / "model.onnx"
    command = [sys.executable, str(EXAMPLE), str(graph), str(frames)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    session, carried, expected = OrtSession(onnx.load(graph)), frame.start(), []
    for index, feeds in enumerate(sequence):
        outputs = session.run({**feeds, **carried})
        ((_, found),) = frame.detections(outputs, frame={"token": ""})
        carried = frame.carry(outputs)
        expected.append(f"frame {index}")
        for place in range(10):
            x, y, bottom, length, width, height, yaw = found.bboxes_3d.tensor[place, :7].tolist()
            size = f"{length:.2f} x {width:.2f} x {height:.2f} m"
            where = f"({x:6.2f}, {y:6.2f}, {bottom + height / 2:5.2f}) m"
            label = CLASSES[found.labels_3d[place]]
            expected.append(f"  {found.scores_3d[place]:.3f} {label:20} {where}  {size}  {yaw:5.2f}")
    assert printed == expected
    assert len(EXAMPLE.read_text().splitlines()) <= 65


def test_the_gate_asks_for_one_scene_and_no_more(settings: list[str], store: Path) -> None:
    job = Job(profiles.load("w4a6", overrides=settings), Store(store))
    (scene,) = exporting._gate_split(job).scenes
    assert scene == job.split("train").scenes[0] and len(job.split("train").scenes) == 3


def test_evaluate_runs_the_graph(call: Call, exported: dict[str, Any], model: dict[str, Any]) -> None:
    of_graph, of_model = call("evaluate", exported["artifact"]["path"]), call("evaluate", model["path"])
    assert abs(of_graph["metrics"]["NDS"] - of_model["metrics"]["NDS"]) < 0.05  # 4 frames
    assert of_graph["artifact"]["digest"] != of_model["artifact"]["digest"]
    # one scene gives no interval; what was exported was scored first, and is a parent
    sealed = json.loads((Path(of_graph["artifact"]["path"]) / "manifest.json").read_text())
    assert sealed["parents"]["trained"] == of_model["artifact"]["digest"]
    assert sealed["data"]["runtime"] == "ort" and "to_trained" not in sealed["metrics"]


def test_a_dry_run_counts_no_memory_of_a_detector_for_a_graph(
    call: Call, exported: dict[str, Any], model: dict[str, Any]
) -> None:
    of_graph, of_model = (
        call("evaluate", made["path"], "--dry-run")["messages"] for made in (exported["artifact"], model)
    )
    assert [any("memory of" in line for line in lines) for lines in (of_graph, of_model)] == [False, True]


def test_what_a_target_makes_of_each_layer_is_told_and_nothing_written(
    call: Call, model: dict[str, Any], store: Path
) -> None:
    before = sorted(path.name for path in store.iterdir())
    (table,) = call("export onnx", model["path"], "--target", "qnn", "--explain")["tables"]
    rows = {row[0]: row[1:4] for row in table["rows"]}
    assert rows["img_neck.lateral_convs.0.conv"] == ["W4A6", "same range at 8 bits", "W4A8"]  # 1x1, 64 outputs
    assert rows["img_backbone.conv1"] == ["W4A6", "same range at 8 bits", "W8A8"]
    assert rows["pts_bbox_head.bev_embedding"][0] == "W4"
    refused = call("export onnx", model["path"], "--explain", "--strip-metadata", code=2)
    assert "--explain writes nothing" in refused["error"]
    assert sorted(path.name for path in store.iterdir()) == before


def test_qonnx_keeps_widths_and_counts_what_the_plan_counts(call: Call, model: dict[str, Any]) -> None:
    made = call("export onnx", model["path"], "--target", "qonnx")
    gate = made["metrics"]["gate"]
    assert (gate["taps"], gate["layers"]["changed"]) == (83, 0)
    counts = gate["operations"]
    report = json.loads((Path(made["artifact"]["path"]) / "gate.json").read_text())
    assert report["miscounted"] == [] and report["operations"] == counts
    assert counts["bit_operations"] == counts["macs"] * 4 * 6  # W4A6 in every layer that the graph multiplies
    graph = onnx.load(Path(made["artifact"]["path"]) / "model.onnx")
    assert {node.domain for node in graph.graph.node if node.op_type == "Quant"} == {"qonnx.custom_op.general"}


def test_a_graph_for_a_device_keeps_its_rules_and_is_scored_at_its_bits(call: Call, model: dict[str, Any]) -> None:
    made = call("export onnx", model["path"], "--target", "qnn")
    report = json.loads((Path(made["artifact"]["path"]) / "gate.json").read_text())
    assert (report["failure"], report["breaches"], len(report["taps"])) == ("", [], 83)
    graph = onnx.load(Path(made["artifact"]["path"]) / "model.onnx")
    assert onnx.TensorProto.INT4 in {tensor.data_type for tensor in graph.graph.initializer}
    simulated, by_ort = (call("evaluate", made["artifact"]["path"], *words) for words in ((), ("--runtime", "ort")))
    assert abs(simulated["metrics"]["NDS"] - by_ort["metrics"]["NDS"]) < 0.02  # 4 frames
    of_model = call("evaluate", model["path"])
    assert simulated["metrics"]["NDS"] != of_model["metrics"]["NDS"]  # finer steps: another detector
    sealed = json.loads((Path(simulated["artifact"]["path"]) / "manifest.json").read_text())
    assert sealed["data"]["runtime"] == "simulation"


def test_a_graph_that_breaks_a_rule_is_refused(
    call: Call, model: dict[str, Any], store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    way = exporting.WAYS["qnn"]
    rule = replace(way.rules[0], name="opset", says="no graph at all", broken_by=lambda view: iter(["opset 21"]))
    monkeypatch.setattr(exporting, "WAYS", {**exporting.WAYS, "qnn": replace(way, rules=(rule,))})
    before = {path.name for path in store.iterdir()}
    failed = call("export onnx", model["path"], "--target", "qnn", "--strip-metadata", code=3)
    assert "opset 21 breaks the rule 'opset': no graph at all" in failed["error"]
    assert {path.name for path in store.iterdir()} - before <= {"_gates"}


def test_a_runtime_runs_graphs_alone(call: Call, model: dict[str, Any]) -> None:
    refused = call("evaluate", model["path"], "--runtime", "openvino", code=2)
    assert "--runtime openvino runs exported graphs" in refused["error"]


def test_what_fails_leaves_the_report_alone(
    call: Call, model: dict[str, Any], store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(lowered: Any) -> Any:
        scale = next(each for each in lowered.model.graph.initializer if each.name == "img_backbone.conv1.weight_scale")
        doubled = onnx.numpy_helper.to_array(scale) * 2
        scale.CopyFrom(onnx.numpy_helper.from_array(doubled, scale.name))
        return lowered

    way = exporting.WAYS["ort"]
    dishonest = replace(way, lower=lambda graph: cut(way.lower(graph)))
    monkeypatch.setattr(exporting, "WAYS", {**exporting.WAYS, "ort": dishonest})
    before = {path.name for path in store.iterdir()}
    failed = call("export onnx", model["path"], "--strip-metadata", code=3)
    assert "at img_backbone.layer1.0.conv1.input_quantizer the graph differs by up to" in failed["error"]
    assert {path.name for path in store.iterdir()} - before <= {"_gates"}
    (left,) = (store / "_gates").glob("*-ort.json")
    assert json.loads(left.read_text())["failure"] in failed["error"]


def test_only_a_quantized_detector_is_exported(call: Call, exported: dict[str, Any]) -> None:
    refused = call("export onnx", exported["artifact"]["path"], code=2)
    assert "only a quantized detector can be exported" in refused["error"]


def test_taps_that_move_what_a_runtime_computes_are_looked_at_in_parts(
    call: Call, model: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = list[int]()

    class Otherwise(OrtSession):
        """Moves an output where more than half of all taps come out at once."""

        def __init__(self, graph: Any, *, taps: Any = ()) -> None:
            super().__init__(graph, taps=taps)
            sizes.append(len(taps))

        def run(self, feeds: Any) -> dict[str, Any]:
            found = super().run(feeds)
            return found | {"bev": found["bev"] + (len(found) > 3 + 83 // 2 + 1)}

    way = replace(exporting.WAYS["ort"], session=Otherwise)
    monkeypatch.setattr(exporting, "WAYS", {**exporting.WAYS, "ort": way})
    made = call("export onnx", model["path"], "--strip-metadata")
    assert sizes == [0, 83, 41, 42] and made["metrics"]["gate"]["taps"] == 83
