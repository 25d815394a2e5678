"""BEVDet4D and BEVDepth as graphs: cells go in, what falls into one adds up, a past frame is carried, every target."""

from __future__ import annotations

import copy
import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor

from qdbev.detectors.bevdepth import build_bevdepth
from qdbev.detectors.bevdepth.network import in_lidar
from qdbev.detectors.bevdet import build_bevdet
from qdbev.detectors.centre import Circle, Decoding, boxes_of_outputs
from qdbev.detectors.detector import Scene
from qdbev.detectors.frame_graph import FrameGraph
from qdbev.detectors.lift import LiftGraph
from qdbev.export.onnx.device.lowering import device_graph
from qdbev.export.onnx.device.session import DeviceSession
from qdbev.export.onnx.execution import OpenVinoSession, OrtSession
from qdbev.export.onnx.gate.check import GateReport, check
from qdbev.export.onnx.lowering import Lowered, runtime_graph
from qdbev.export.onnx.metadata import write_metadata
from qdbev.export.onnx.neutral import neutral_graph
from qdbev.export.onnx.qonnx.lowering import quant_graph
from qdbev.export.onnx.qonnx.operations import by_layer, counted, differing
from qdbev.export.onnx.qonnx.session import QonnxSession
from qdbev.export.onnx.stream import StreamedGraph
from qdbev.export.targets.device_rules import DEVICE_RULES
from qdbev.export.targets.legal import put_onto_legal_bits
from qdbev.export.targets.structure import breaches
from qdbev.ops.frustum_pooling import pool_frustum
from qdbev.quantization import count_macs
from tests.detectors.bevdepth.test_detector import OWN
from tests.detectors.bevdepth.test_detector import SIZE as DEPTH_SIZE
from tests.detectors.bevdet.conftest import MITE, SIZE, make_batch, steady
from tests.detectors.bevdet.conftest import frame as time_step
from tests.detectors.conftest import ring_of_cameras
from tests.export.onnx.conftest import Traced, copies, put_onto_bits

FEW_TASKS: dict[str, Any] = {"tasks": ((0, 2), (1,))}
CIRCLES_M2 = (9.0, 4.0)
NEVER = (Circle(-1.0),) * 2
SIZES = {"bevdet4d": SIZE, "bevdepth": DEPTH_SIZE}
EXAMPLE = Path(__file__).resolve().parents[3] / "docs" / "examples" / "run_onnx.py"


def graph_of(kind: str, *, frames_back: int) -> LiftGraph:
    numbers = FEW_TASKS | {"frames_back": frames_back}
    build = {
        "bevdet4d": lambda: build_bevdet(**(MITE | numbers)),
        "bevdepth": lambda: build_bevdepth(**(OWN | numbers)),
    }
    graph = steady(build[kind]()).eval().frame_graph(Scene(SIZES[kind], ring_of_cameras(*SIZES[kind])))
    assert isinstance(graph, LiftGraph)
    return graph


def step(kind: str, index: int, *, scene: str = "a", follows: bool | None = None) -> tuple[dict[str, Any], list[Any]]:
    known = index > 0 if follows is None else follows
    return make_batch([time_step(scene=scene, index=index, follows=known, size=SIZES[kind])])


def drive(kind: str, frame: FrameGraph, count: int) -> list[dict[str, Tensor]]:
    """What goes in at the first frames of a scene."""
    sequence, before = [], []
    for index in range(count):
        inputs, (sample,) = step(kind, index)
        sequence.append(frame.feeds(inputs, sample, place=0, before=before))
        before = frame.seen(before, sample.metainfo["frames"][-1])
    return sequence


def agrees(kind: str, frame: FrameGraph, lowered: Lowered, *, session: Any = OrtSession, frames: int = 2) -> GateReport:
    onnx.checker.check_model(lowered.model, full_check=True)
    plain, tapped = session(lowered.model), session(lowered.model, taps=lowered.taps)
    report = check(frame, session=plain, tapped=tapped, sequence=drive(kind, frame, frames), biases=lowered.biases)
    report.layers, report.foreign = plain.layers(lowered.weights), plain.foreign(lowered.weights)
    assert (report.failure(), report.frames, report.taps_change) == ("", frames, False)
    assert set(report.taps) == set(lowered.grids) and max(report.outputs.values()) < 1e-4
    return report


@pytest.fixture(scope="module", params=list(SIZES))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def frame(kind: str) -> LiftGraph:
    """W4A6, two frames back; look, do not change."""
    graph = graph_of(kind, frames_back=2)

    def observe() -> None:
        graph.detector.history.reset()
        for index in range(2):
            graph.detector.detections(*step(kind, index))

    put_onto_bits(graph.detector, 4, 6, observe=observe, may_be_unsigned=True)
    return graph


@pytest.fixture(scope="module")
def traced(frame: LiftGraph) -> Traced:
    return copies(frame)


@pytest.fixture(scope="module")
def lowered(traced: Traced) -> Lowered:
    return runtime_graph(traced())


def test_a_stream_is_that_of_the_detector(kind: str, frame: LiftGraph) -> None:
    """Also where a frame is missing, or two scenes alternate: a scene then begins anew."""
    streamed, detector = StreamedGraph(frame, session=frame), frame.detector
    detector.history.reset()
    for scene, index in (("a", 0), ("a", 1), ("b", 0), ("a", 2), ("a", 3), ("a", 5), ("b", 1), ("a", 6)):
        batch = step(kind, index, scene=scene)
        ((token, boxes),), ((_, expected),) = streamed.detections(*batch), detector.detections(*batch)
        assert token == f"{scene}-{index}" and len(boxes) == len(expected) > 50
        assert torch.equal(boxes.labels_3d, expected.labels_3d)
        assert (boxes.bboxes_3d.tensor - expected.bboxes_3d.tensor).abs().max() < 1e-4


def test_a_frame_is_compared_with_the_oldest_that_is_carried(kind: str, frame: LiftGraph) -> None:
    carried, seen = frame.start(), []
    for feeds in drive(kind, frame, 4):
        outputs = frame.run(feeds | carried)
        carried = frame.carry(outputs)
        seen.append(outputs["depths"])
    first, *_ = seen
    assert torch.equal(first[0], first[1])  # the start of a scene stands for what was before
    assert torch.equal(seen[1][0], first[1]) and torch.equal(seen[3][0], seen[2][1])
    assert list(carried) == ["prev_depths", "prev_features", "has_prev"] and float(carried["has_prev"]) == 1


def test_what_goes_in_and_comes_out_is_told(kind: str, frame: LiftGraph) -> None:
    own = {"bevdet4d": ["cells", "places", "gap_s"], "bevdepth": ["cameras", "cells", "prev_cells"]}[kind]
    assert list(frame.inputs) == ["image", *own, "prev_depths", "prev_features", "has_prev"]
    assert frame.circles_m2 == [1.0, 1.0]  # of tasks that are not nuScenes'
    assert list(frame.meanings) == [*frame.inputs, "class_logits", "box_codes", "depths", "features"]
    with pytest.raises(ValueError, match=r"images have shape .* this graph takes"):
        inputs, (sample,) = step(kind, 0)
        frame.feeds({"img": inputs["img"][..., :32]}, sample, place=0)


def test_every_tap_of_a_sequence_agrees(kind: str, frame: LiftGraph, lowered: Lowered) -> None:
    report = agrees(kind, frame, lowered, frames=3)
    assert "integers" in {each.fate for each in report.layers} and report.foreign == []


def test_openvino_agrees(kind: str, frame: LiftGraph, traced: Traced) -> None:
    pytest.importorskip("openvino")
    agrees(kind, frame, runtime_graph(traced(), target="openvino"), session=OpenVinoSession)


def test_qonnx_agrees_and_counts_what_the_plan_counts(kind: str, frame: LiftGraph, traced: Traced) -> None:
    lowered = quant_graph(traced())
    agrees(kind, frame, lowered, session=QonnxSession)
    lines = [line for line in count_macs(frame.detector, lambda: frame.run(frame.inputs)) if line.is_layer]
    expected = {line.path: (line.macs, line.macs * 4 * 6) for line in lines}
    assert list(differing(by_layer(counted(lowered.model), paths=expected), expected)) == []


@pytest.mark.parametrize("target", ["tensorrt", "qnn"])
def test_graphs_for_devices_keep_every_rule(kind: str, frame: LiftGraph, target: str) -> None:
    legal = copy.deepcopy(frame)
    put_onto_legal_bits(legal.detector, target=target)
    lowered = device_graph(neutral_graph(legal), target=target)
    assert [str(breach) for breach in breaches(lowered.model, rules=DEVICE_RULES[target])] == []
    agrees(kind, legal, lowered, session=DeviceSession)


def test_a_detector_without_a_past_frame_takes_images_and_cells() -> None:
    frame = graph_of("bevdet4d", frames_back=0)
    (feeds,) = drive("bevdet4d", frame, 1)
    assert list(feeds) == list(frame.inputs) == ["image", "cells"] and frame.start() == frame.carry({}) == {}
    outputs = frame.run(feeds)
    with torch.no_grad():
        expected = frame.detector.outputs(frame.detector(*step("bevdet4d", 0)))
    assert list(outputs) == ["class_logits", "box_codes"]
    assert all(torch.equal(value, wanted) for value, wanted in zip(outputs.values(), expected, strict=True))


class Pool(FrameGraph):
    """Frustum pooling alone: two pixels of four depths, five cells."""

    outputs = ("map",)

    def __init__(self) -> None:
        super().__init__()
        self.detector = torch.nn.Identity()
        self.inputs = {"depth": torch.zeros(1, 4, 2), "context": torch.zeros(1, 2, 1)}
        self.inputs["cells"] = torch.zeros(1, 4, 2, dtype=torch.long)

    def forward(self, depth: Tensor, context: Tensor, cells: Tensor) -> Tensor:
        return pool_frustum(depth, context, cells_EDP=cells, cells=5)

    feeds = start = carry = detections = None  # type: ignore[assignment]


def test_what_falls_into_one_cell_adds_up() -> None:
    pool = Pool()
    depth = torch.tensor([[[1.0, 2], [3, 4], [5, 6], [7, 8]]])
    cells = torch.tensor([[[0, 0], [0, 4], [4, -1], [2, 0]]])
    feeds = {"depth": depth, "context": torch.tensor([[[10.0], [100.0]]]), "cells": cells}
    expected = [10 + 200 + 30 + 800, 0, 70, 0, 400 + 50]
    for lowered, session in (
        (runtime_graph(neutral_graph(pool)), OrtSession),
        (device_graph(neutral_graph(pool), target="tensorrt"), DeviceSession),
    ):
        assert session(lowered.model, threads=2).run(feeds)["map"].flatten().tolist() == expected
        sums = [node for node in lowered.model.graph.node if node.op_type.startswith("Scatter")]
        assert {node.op_type for node in sums} == {"ScatterND" if session is OrtSession else "ScatterElements"}
        assert len(sums) == 2  # three depths of two pixels at once, as many as there are cells and one


def test_numpy_alone_finds_the_boxes_of_the_detector_with_its_circles(
    kind: str, frame: LiftGraph, lowered: Lowered, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of BEVDet, which suppresses what overlaps, with circles in its place; wider ones, for the cells are large."""
    classes, detector = ("car", "bus", "van"), frame.detector
    metadata = {"classes": classes, "carried": dict(frame.carried), "circles_m2": CIRCLES_M2}
    sequence = drive(kind, frame, 2)
    model = without_ties(lowered.model, shape=frame.run(sequence[0] | frame.start())["class_logits"].shape)
    write_metadata(model, metadata)
    onnx.save(model, tmp_path / "model.onnx")
    recorded = {name: np.concatenate([feeds[name] for feeds in sequence]) for name in sequence[0]}
    lidar2ego = np.array([[0, -1, 0, 3.0], [1, 0, 0, -1], [0, 0, 1, 0.5], [0, 0, 0, 1]])  # a quarter turn, and a shift
    recorded |= {"lidar2ego": np.stack([lidar2ego] * 2)} if kind == "bevdepth" else {}
    np.savez(tmp_path / "frames.npz", **recorded)
    runpy.run_path(str(EXAMPLE))["main"](str(tmp_path / "model.onnx"), str(tmp_path / "frames.npz"))
    session, carried, expected = OrtSession(model), frame.start(), []
    wide = Decoding(
        tuple(map(Circle, CIRCLES_M2)), candidates=10**6, min_score=0.0, centre_range_m=(-1e6,) * 3 + (1e6,) * 3
    )
    for place, feeds in enumerate(sequence):
        outputs = session.run(feeds | carried)
        carried = frame.carry(outputs)
        logits, codes = outputs["class_logits"], outputs["box_codes"]
        (found,) = boxes_of_outputs(logits, codes, classes=detector.tasks, decoding=wide)
        (free,) = boxes_of_outputs(logits, codes, classes=detector.tasks, decoding=replace(wide, suppression=NEVER))
        assert not torch.equal(found.scores_3d[:10], free.scores_3d[:10])  # some are suppressed
        if kind == "bevdepth":
            in_lidar([found], lidar2grid_B44=torch.from_numpy(lidar2ego)[None])
        expected.append(f"frame {place}")
        for box, score, label in zip(
            found.bboxes_3d.tensor[:10].tolist(), found.scores_3d, found.labels_3d, strict=False
        ):
            x, y, bottom, length, width, height, yaw, *_ = box
            where = f"({x:6.2f}, {y:6.2f}, {bottom + height / 2:5.2f}) m"
            size = f"{length:.2f} x {width:.2f} x {height:.2f} m"
            expected.append(f"  {score:.3f} {classes[label]:20} {where}  {size}  {yaw:5.2f}")
    assert capsys.readouterr().out.splitlines() == expected and len(expected) == 2 * 11


def without_ties(model: onnx.ModelProto, *, shape: torch.Size) -> onnx.ModelProto:
    """The same with every logit moved by a little of its own: of two equal scores torch and numpy may take either."""
    moved: onnx.ModelProto = copy.deepcopy(model)
    (maker,) = (node for node in moved.graph.node if "class_logits" in node.output)
    maker.output[list(maker.output).index("class_logits")] = "tied"
    apart = np.linspace(0, 1e-2, shape.numel(), dtype=np.float32).reshape(shape)
    moved.graph.initializer.append(onnx.numpy_helper.from_array(apart, "apart"))
    moved.graph.node.append(onnx.helper.make_node("Add", ["tied", "apart"], ["class_logits"]))
    return moved
