"""A frame as a graph of QONNX: widths kept, run by two programs against torch, operations counted by two more."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from qdbev.detectors.frame_graph import FrameGraph
from qdbev.export.onnx.gate.check import check
from qdbev.export.onnx.graph import attributes_of
from qdbev.export.onnx.lowering import Lowered
from qdbev.export.onnx.neutral import neutral_graph
from qdbev.export.onnx.qonnx.definition import DOMAIN
from qdbev.export.onnx.qonnx.lowering import Width, quant_graph
from qdbev.export.onnx.qonnx.operations import by_layer, counted, differing
from qdbev.export.onnx.qonnx.session import QonnxSession
from qdbev.quantization import count_macs, quantized_layers
from tests.export.onnx.conftest import make_frame, random_feeds

MIXED = {
    "img_backbone.layer1.0.conv1": (3, 5),
    "img_neck.lateral_convs.0.conv": (8, 8),
    "pts_bbox_head.transformer.decoder.layers.1.attentions.0.attn": (2, 4),
    "pts_bbox_head.cls_branches.1.6": (6, 7),
}
_COUNT = """
import json, sys
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.transformation.infer_datatypes import InferDataTypes
from qonnx.transformation.infer_shapes import InferShapes
from qonnx.util.inference_cost import inference_cost
model = ModelWrapper(sys.argv[1]).transform(InferShapes()).transform(InferDataTypes(allow_scaledint_dtypes=True))
print(json.dumps(inference_cost(model, discount_sparsity=False, preprocess=False)["total_cost"], default=str))
"""
"""Without its folding of constants: what object queries are multiplied by is constant, and counts here."""


class Quant(OpRun):  # type: ignore[misc]
    """The published operator in numpy, for onnx's own evaluator."""

    op_domain = DOMAIN

    def _run(self, x: Any, scale: Any, zero: Any, bits: Any, **attributes: Any) -> tuple[Any]:
        signed, narrow = attributes["signed"], attributes["narrow"]
        assert attributes["rounding_mode"] == "ROUND"
        most = 2 ** (bits - 1) - 1 if signed else 2**bits - 1 - narrow
        least = -(2 ** (bits - 1)) + narrow if signed else 0
        return (((np.rint(np.clip(x / scale + zero, least, most)) - zero) * scale).astype(np.float32),)


class GridSample(OpRun):  # type: ignore[misc]
    """Between four pixels, all places at once: onnx's own looks at one place after the other, which takes seconds."""

    op_domain = ""

    def _run(self, x: Any, grid: Any, **attributes: Any) -> tuple[Any]:
        assert (attributes["mode"], attributes["padding_mode"]) == ("linear", "zeros")
        size = np.array(x.shape[:1:-1])
        places = (grid + 1) * (size - 1) / 2 if attributes["align_corners"] else ((grid + 1) * size - 1) / 2
        first, batch = np.floor(places).astype(int), np.arange(len(x))[:, None, None]
        total = np.zeros((*grid.shape[:3], x.shape[1]))
        for corner in ((0, 0), (0, 1), (1, 0), (1, 1)):
            pixel = first + corner
            share = np.prod(1 - np.abs(places - pixel), -1) * ((pixel >= 0) & (pixel < size)).all(-1)
            column, row = np.moveaxis(np.clip(pixel, 0, size - 1), -1, 0)
            total += x[batch, :, row, column] * share[..., None]
        return (np.moveaxis(total, -1, 1).astype(np.float32),)


@pytest.fixture(scope="module")
def mixed() -> FrameGraph:
    return make_frame(bits=MIXED, may_be_unsigned=True)


@pytest.fixture(scope="module")
def lowered(mixed: FrameGraph) -> Lowered:
    graph = quant_graph(neutral_graph(mixed))
    onnx.checker.check_model(graph.model, full_check=True)
    return graph


def gate_passes(frame: FrameGraph, graph: Lowered) -> None:
    sequence = [random_feeds(frame, seed=seed) for seed in (2, 3)]
    session, tapped = QonnxSession(graph.model), QonnxSession(graph.model, taps=graph.taps)
    report = check(frame, session=session, tapped=tapped, sequence=sequence, biases={})
    assert (report.failure(), report.free_boxes, report.taps_change) == ("", 1.0, False)
    assert set(report.taps) == set(graph.grids)
    assert max(report.outputs.values()) < 1e-4
    assert session.layers(graph.weights) == [] and session.foreign(graph.weights) == []


def test_every_tap_agrees_with_mixed_bits_and_unsigned_grids(mixed: FrameGraph, lowered: Lowered) -> None:
    assert {grid.low for grid in lowered.grids.values()} >= {-32, 0}
    gate_passes(mixed, lowered)


def test_every_tap_agrees_with_narrow_ranges_and_with_offsets() -> None:
    frame = make_frame(narrow_range=True, has_offset=True)
    graph = quant_graph(neutral_graph(frame))
    assert {attributes["narrow"] for *_, attributes in quants(graph)} == {0, 1}  # weights of four bits are not narrow
    gate_passes(frame, graph)
    expected = expected_operations(frame)
    assert by_layer(counted(graph.model), paths=expected) == expected


def test_another_program_computes_the_same(mixed: FrameGraph, lowered: Lowered) -> None:
    bare = onnx.ModelProto()
    bare.CopyFrom(lowered.model)
    del bare.functions[:]  # so that the operator above runs, not the definition in the file
    feeds = {**random_feeds(mixed, seed=6), **mixed.start()}
    given = ReferenceEvaluator(bare, new_ops=[Quant, GridSample]).run(
        None, {name: x.numpy() for name, x in feeds.items()}
    )
    for (name, expected), value in zip(mixed.run(feeds).items(), given, strict=True):
        assert np.abs(value - expected.numpy()).max() < 1e-3, name


def quants(graph: Lowered) -> Iterator[tuple[str, int, dict[str, Any]]]:
    numbers = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.model.graph.initializer}
    for node in graph.model.graph.node:
        if node.op_type == "Quant":
            assert not numbers[node.input[2]].any()
            yield node.input[0], int(numbers[node.input[3]]), attributes_of(node)


def test_weights_stand_at_the_width_of_their_layer(mixed: FrameGraph, lowered: Lowered) -> None:
    widths = {name: (bits, attributes["signed"]) for name, bits, attributes in quants(lowered)}
    numbers = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in lowered.model.graph.initializer}
    compared = 0
    for path, layer in quantized_layers(mixed.detector).items():
        for weight in layer.quantized_weights():
            name = f"{path}.{weight.name}"
            if name in widths:
                assert widths[name] == (layer.site.weight_bits, 1)
                expected = weight.quantizer(weight.value).detach().numpy()
                assert np.array_equal(numbers[name], expected) or np.array_equal(numbers[name], expected.T)
                compared += 1
    assert compared > 40 and {bits for bits, _ in widths.values()} >= {2, 3, 4, 6, 8}


def test_a_width_that_has_no_name_is_refused() -> None:
    assert Width.of(-8, 7) == Width(4, 1, 0) and Width.of(0, 15) == Width(4, 0, 0)
    with pytest.raises(ValueError, match="integers -3 to 7 are those of no width"):
        Width.of(-3, 7)


def expected_operations(frame: FrameGraph) -> dict[str, tuple[int, int]]:
    """Multiply-accumulates by hooks on torch's modules, at the bits of the plan."""
    sites = {path: layer.site for path, layer in quantized_layers(frame.detector).items()}
    return {
        line.path: (line.macs, line.macs * sites[line.path].weight_bits * sites[line.path].activation_bits)
        for line in count_macs(frame.detector, lambda: frame.run(frame.inputs))
        if line.is_layer
    }


def test_operations_counted_from_the_graph_are_those_of_the_plan(mixed: FrameGraph, lowered: Lowered) -> None:
    expected = expected_operations(mixed)
    counts = by_layer(counted(lowered.model), paths=expected)
    assert counts == expected and list(differing(counts, expected)) == []


def test_a_convolution_counts_what_one_counts_by_hand(lowered: Lowered) -> None:
    found = by_layer(counted(lowered.model), paths=["img_backbone.conv1"])
    macs = 2 * 16 * (16 * 32) * 3 * 49  # cameras, outputs, pixels, inputs, kernel
    assert found["img_backbone.conv1"] == (macs, macs * 4 * 6)


def test_a_graph_that_multiplies_otherwise_is_told(mixed: FrameGraph, lowered: Lowered) -> None:
    expected = expected_operations(mixed)
    path = "img_neck.lateral_convs.0.conv"
    expected[path] = (expected[path][0], expected[path][0] * 4 * 8)
    (sentence,) = differing(by_layer(counted(lowered.model), paths=expected), expected)
    assert sentence.startswith(f"{path} takes ") and sentence.endswith(f"{expected[path][1]} by us")


def test_the_package_qonnx_counts_the_same(mixed: FrameGraph, lowered: Lowered, tmp_path: Path) -> None:
    python = sys.executable if find_spec("qonnx") else os.environ.get("QDBEV_QONNX_PYTHON")
    if not python:
        pytest.skip("qonnx is not installed; QDBEV_QONNX_PYTHON may name a Python that has it")
    onnx.save(lowered.model, tmp_path / "model.onnx")
    command = [python, "-c", _COUNT, str(tmp_path / "model.onnx")]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    printed = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    counts = json.loads(printed.splitlines()[-1])
    in_float = counts["op_mac_FLOAT32_FLOAT32"]  # products of two activations, and of cameras with points
    operations = counted(lowered.model)
    assert counts["total_macs"] - in_float == sum(each.macs for each in operations)
    assert counts["total_bops"] - in_float * 32 * 32 == sum(each.bit_operations for each in operations)
