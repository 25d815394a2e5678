"""Graphs for TensorRT and QNN: legal bits in torch first, then a graph that keeps every rule and computes the same."""

from __future__ import annotations

import copy
from collections import Counter

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F

from qdbev.detectors.frame_graph import FrameGraph
from qdbev.export.onnx.device.lowering import device_graph, integer_biases
from qdbev.export.onnx.device.sampling import gather_samples
from qdbev.export.onnx.device.session import DeviceSession
from qdbev.export.onnx.execution import OrtSession
from qdbev.export.onnx.gate.check import GateReport, check
from qdbev.export.onnx.graph import Graph
from qdbev.export.onnx.lowering import Lowered
from qdbev.export.onnx.neutral import neutral_graph
from qdbev.export.onnx.shapes import known_shapes
from qdbev.export.targets.device_rules import DEVICE_RULES
from qdbev.export.targets.legal import put_onto_legal_bits
from qdbev.export.targets.structure import breaches
from tests.export.onnx.conftest import make_frame, random_feeds

helper = onnx.helper


@pytest.fixture(scope="module")
def unsigned() -> FrameGraph:
    """W4A6, a product of more than 32 outputs in it; look, do not change."""
    return make_frame(may_be_unsigned=True, variant={"hidden": 64})


def exported(frame: FrameGraph, target: str) -> tuple[FrameGraph, Lowered]:
    frame = copy.deepcopy(frame)
    put_onto_legal_bits(frame.detector, target=target)
    lowered = device_graph(neutral_graph(frame), target=target)
    onnx.checker.check_model(lowered.model, full_check=True)
    return frame, lowered


def gate(frame: FrameGraph, lowered: Lowered) -> GateReport:
    session, tapped = DeviceSession(lowered.model), DeviceSession(lowered.model, taps=lowered.taps)
    sequence = [random_feeds(frame, seed=seed) for seed in (2, 3)]
    report = check(frame, session=session, tapped=tapped, sequence=sequence, biases=lowered.biases)
    report.layers = session.layers(lowered.weights)
    return report


def types(model: onnx.ModelProto) -> Counter[str]:
    return Counter(helper.tensor_dtype_to_np_dtype(tensor.data_type).name for tensor in model.graph.initializer)


def test_tensorrt_gets_bytes_around_zero_and_no_sampling(unsigned: FrameGraph) -> None:
    frame, lowered = exported(unsigned, "tensorrt")
    assert [str(breach) for breach in breaches(lowered.model, rules=DEVICE_RULES["tensorrt"])] == []
    report = gate(frame, lowered)
    assert (report.failure(), report.taps_change) == ("", False) and max(report.outputs.values()) < 1e-4
    assert set(report.taps) == set(lowered.grids) and len(lowered.grids) == 50  # seven narrow layers are in float
    assert lowered.biases == {} and types(lowered.model)["int4"] == 0
    kinds = Counter(node.op_type for node in lowered.model.graph.node)
    assert kinds["GridSample"] == 0 and lowered.model.opset_import[0].version == 19
    assert {layer.fate for layer in report.layers} == {"integers"}
    for node in lowered.model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in lowered.weights:
            # a weight of four bits keeps its integers: they are written as bytes
            (tensor,) = (t for t in lowered.model.graph.initializer if t.name == node.input[0])
            assert np.array_equal(onnx.numpy_helper.to_array(tensor), lowered.weights[tensor.name].integers)


@pytest.fixture(scope="module")
def qnn(unsigned: FrameGraph) -> tuple[FrameGraph, Lowered]:
    return exported(unsigned, "qnn")


def test_qnn_gets_unsigned_bytes_and_four_bits_where_they_are_executed(qnn: tuple[FrameGraph, Lowered]) -> None:
    frame, lowered = qnn
    assert [str(breach) for breach in breaches(lowered.model, rules=DEVICE_RULES["qnn"])] == []
    report = gate(frame, lowered)
    assert (report.failure(), report.taps_change) == ("", False) and max(report.outputs.values()) < 1e-4
    four = {t.name for t in lowered.model.graph.initializer if t.data_type == onnx.TensorProto.INT4}
    assert {lowered.weights[name].integers.shape for name in four} == {(32, 64)}
    assert {grid.low for grid in lowered.grids.values()} == {-128, 0}
    assert {grid.high - grid.low for grid in lowered.grids.values()} == {255}


def test_int32_biases_come_back_from_the_file(qnn: tuple[FrameGraph, Lowered]) -> None:
    frame, lowered = qnn
    values = integer_biases(lowered.model)
    assert len(values) == 4 and set(values) == set(lowered.biases)
    for name, value in values.items():
        layer = name.removesuffix(".bias")
        step = lowered.grids[f"{layer}.input_quantizer"].scale * lowered.weights[f"{layer}.weight"].scale
        exact = frame.detector.get_parameter(name).detach().numpy()
        assert np.array_equal(value, lowered.biases[name]) and (np.abs(value - exact) <= step * 0.501).all()


def test_the_gate_names_the_node_and_the_rule(qnn: tuple[FrameGraph, Lowered]) -> None:
    damaged = onnx.ModelProto()
    damaged.CopyFrom(qnn[1].model)
    node = next(node for node in damaged.graph.node if node.op_type == "Gather")
    node.op_type = "Loop"
    report = GateReport(breaches=[str(breach) for breach in breaches(damaged, rules=DEVICE_RULES["qnn"])])
    assert report.failure().startswith(f"Loop {node.name} breaks the rule 'operators': the provider has a builder")


@pytest.mark.parametrize("aligned", [0, 1])
def test_gathered_rows_are_what_grid_sample_gives(aligned: int) -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(2, 3, 5, 7, generator=generator)
    places = torch.rand(2, 4, 6, 2, generator=generator) * 3 - 1.5  # a third of them outside
    places[0, 0, :3] = torch.tensor([[-1.0, 1.0], [1e6, 0.0], [0.0, 0.0]])
    node = helper.make_node("GridSample", ["image", "places"], ["y"], name="sample", align_corners=aligned)
    ports = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in (("image", image.shape), ("places", places.shape), ("y", (2, 3, 4, 6)))
    ]
    body = helper.make_graph([node], "sample", ports[:2], ports[2:])
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    graph = Graph(model)
    gather_samples(graph, shapes=known_shapes(model))
    given = OrtSession(graph.finish()).run({"image": image, "places": places})["y"]
    expected = F.grid_sample(image, places, mode="bilinear", padding_mode="zeros", align_corners=bool(aligned))
    assert not any(node.op_type == "GridSample" for node in model.graph.node)
    assert (given - expected).abs().max() < 1e-5


def test_sampling_that_is_not_linear_is_refused() -> None:
    node = helper.make_node("GridSample", ["x", "p"], ["y"], name="sample", mode="cubic")
    ports = [helper.make_empty_tensor_value_info(name) for name in ("x", "p", "y")]
    graph = Graph(helper.make_model(helper.make_graph([node], "sample", ports[:2], ports[2:])))
    with pytest.raises(ValueError, match=r"sample samples by .*cubic"):
        gather_samples(graph, shapes={})
