"""A frame of the detector as an ONNX graph: what it holds, and that ONNX Runtime computes with it what torch does."""

from __future__ import annotations

import ctypes
import gc
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from qdbev.detectors.bevformer.frames.history import History
from qdbev.detectors.frame_graph import FrameGraph
from qdbev.detectors.images.frame_batch import FrameBatch
from qdbev.export.onnx import biases, lowering
from qdbev.export.onnx.execution import OpenVinoSession, OrtSession
from qdbev.export.onnx.gate.check import GateReport, check, with_biases
from qdbev.export.onnx.gate.forced_run import Tap
from qdbev.export.onnx.gate.node_table import foreign_quantizers, layer_fates
from qdbev.export.onnx.lowering import Lowered, runtime_graph
from qdbev.export.onnx.metadata import read_metadata, write_metadata
from qdbev.export.onnx.neutral import neutral_graph
from qdbev.quantization import quantized_layers
from tests.export.onnx.conftest import Traced, copies, make_frame, random_feeds

WIDTHS = (5, 6, 7)
NARROWER = [
    *(f"img_backbone.layer{stage}.{block}.conv1" for stage in (1, 2) for block in (0, 1)),
    *(f"pts_bbox_head.cls_branches.1.{place}" for place in (0, 3, 6)),
]
WIDTH_OF = {layer: WIDTHS[place % 3] for place, layer in enumerate(NARROWER)}


@pytest.fixture(scope="module")
def frame_of_bytes() -> FrameGraph:
    """All of bytes, but seven layers whose weights have five to seven bits."""
    bits = {layer: (width, 8) for layer, width in WIDTH_OF.items()}
    return make_frame(8, 8, bits=bits, may_be_unsigned=True)


@pytest.fixture(scope="module")
def traced_of_bytes(frame_of_bytes: FrameGraph) -> Traced:
    return copies(frame_of_bytes)


@pytest.fixture(scope="module")
def lowered_of_bytes(traced_of_bytes: Traced) -> Lowered:
    return runtime_graph(traced_of_bytes())


IN_FLOAT = "img_backbone.layer1.0.conv1"


@pytest.fixture(scope="module")
def frame_with_offsets() -> FrameGraph:
    """Of three narrow bits, and a layer in float."""
    return make_frame(3, 5, has_offset=True, narrow_range=True, float_layers=(IN_FLOAT,))


@pytest.fixture(scope="module")
def traced_with_offsets(frame_with_offsets: FrameGraph) -> Traced:
    return copies(frame_with_offsets)


@pytest.fixture(scope="module")
def lowered(frame: FrameGraph) -> Lowered:
    """Sampling in it lists its rows."""
    return runtime_graph(neutral_graph(frame, lists_rows=True))


@pytest.fixture(scope="module")
def lowered_as_large(traced: Traced) -> Lowered:
    """As if its convolutions were large ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(biases, "SMALL", 0)
        return runtime_graph(traced())


def gate(frame: FrameGraph, lowered: Lowered) -> GateReport:
    session, tapped = OrtSession(lowered.model), OrtSession(lowered.model, taps=lowered.taps)
    sequence = [random_feeds(frame, seed=seed) for seed in (2, 3, 4)]
    return check(frame, session=session, tapped=tapped, sequence=sequence, biases=lowered.biases)


def initialisers(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    return {tensor.name: tensor for tensor in model.graph.initializer}


def test_a_frame_gives_what_the_detector_gives(frame: FrameGraph) -> None:
    detector, feeds = frame.detector, random_feeds(frame, seed=5)
    frames = FrameBatch(("s",), (1,), (True,), feeds["can_bus"], feeds["lidar2img"], torch.tensor([[64.0, 32.0]]))
    with torch.no_grad():
        image = detector.extract_feat(feeds["image"])
        bev = torch.randn(1, 48, 32)
        for history, carried in ((None, frame.start()), (History(bev, (True,)), frame.carry({"bev": bev}))):
            encoded = detector.encode(image, frames=frames, history=history)
            decoded = detector.decode(encoded.bev_BQC)
            given = frame.run({**feeds, **carried})
            # without a history the graph looks at a history that it then leaves aside: no bit differs
            assert torch.equal(given["bev"], encoded.bev_BQC)
            assert torch.equal(given["class_logits"], decoded.logits_LBKC[-1])
            assert torch.equal(given["box_codes"], decoded.code_LBK10[-1])


def agrees(frame: FrameGraph, lowered: Lowered) -> GateReport:
    onnx.checker.check_model(lowered.model, full_check=True)
    report = gate(frame, lowered)
    assert report.failure() == ""
    assert report.frames == 3 and not report.taps_change
    assert set(report.taps) == set(lowered.grids) and not any("cls_branches.0" in name for name in report.taps)
    assert max(report.outputs.values()) < 1e-4
    return report


def test_every_tap_of_a_sequence_agrees_at_w4a6(frame: FrameGraph, lowered: Lowered) -> None:
    agrees(frame, lowered)


def test_every_tap_agrees_with_bytes_that_are_full(frame_of_bytes: FrameGraph, lowered_of_bytes: Lowered) -> None:
    lowered = lowered_of_bytes
    agrees(frame_of_bytes, lowered)
    assert "limit.255" not in initialisers(lowered.model)  # a byte needs no Clip
    full = {name: weight for name, weight in lowered.weights.items() if name.removesuffix(".weight") not in WIDTH_OF}
    assert len(full) == len(lowered.weights) - 7
    assert {weight.finer for weight in full.values()} == {1}  # nor is there room for finer weights
    # 16 bits do not hold two products of full bytes: they stand around 128, for kernels that add in 32 bits
    tensors = initialisers(lowered.model)
    kinds = {name: tensors[name].data_type for name in full}
    assert kinds.pop("img_backbone.conv1.weight") == onnx.TensorProto.INT8  # of three channels: floats
    assert set(kinds.values()) == {onnx.TensorProto.UINT8}
    name = "img_backbone.layer1.0.conv2.weight"
    weight = lowered.weights[name]
    assert np.array_equal(onnx.numpy_helper.to_array(tensors[name]).astype(int) - 128, weight.integers)
    fates = layer_fates(OrtSession(lowered.model).optimised, weights=lowered.weights)
    assert [each.weight for each in fates if each.fate != "integers"] == ["img_backbone.conv1.weight"]


@pytest.fixture(scope="module")
def for_openvino(traced: Traced) -> tuple[Lowered, list[OpenVinoSession]]:
    """A graph and its sessions, without taps and with them."""
    pytest.importorskip("openvino")
    lowered = runtime_graph(traced(), target="openvino")
    return lowered, [OpenVinoSession(lowered.model), OpenVinoSession(lowered.model, taps=lowered.taps)]


def test_openvino_runs_all_of_it_in_integers(
    frame: FrameGraph, for_openvino: tuple[Lowered, list[OpenVinoSession]]
) -> None:
    lowered, (session, tapped) = for_openvino
    assert lowered.biases == {}  # it keeps them in float
    sequence = [random_feeds(frame, seed=seed) for seed in (2, 3)]
    report = check(frame, session=session, tapped=tapped, sequence=sequence, biases={})
    assert report.failure() == "" and not report.taps_change
    fates = session.layers(lowered.weights)
    # on some processors its graph does not name two layers, those of one row
    one_row = {f"pts_bbox_head.transformer.can_bus_mlp.{place}.weight" for place in (0, 2)}
    assert {each.weight for each in fates if each.operator == "unnamed"} in (one_row, set())
    assert {each.fate for each in fates if each.weight not in one_row} == {"integers"} and len(fates) == 56
    assert session.foreign(lowered.weights) == []


def test_openvino_takes_bytes_that_are_full(frame_of_bytes: FrameGraph, traced_of_bytes: Traced) -> None:
    pytest.importorskip("openvino")
    lowered = runtime_graph(traced_of_bytes(), target="openvino")
    assert "limit.255" in initialisers(lowered.model)  # a Clip that changes nothing: without it, it fails to load
    session, tapped = OpenVinoSession(lowered.model), OpenVinoSession(lowered.model, taps=lowered.taps)
    sequence = [random_feeds(frame_of_bytes, seed=seed) for seed in (2, 3)]
    report = check(frame_of_bytes, session=session, tapped=tapped, sequence=sequence, biases={})
    fates = {each.fate for each in session.layers(lowered.weights) if each.operator != "unnamed"}
    assert fates == {"integers"}
    processor = Path("/proc/cpuinfo")
    adds_in_32_bits = processor.is_file() and "vnni" in processor.read_text()
    assert report.failure() == "" or not adds_in_32_bits  # else two products of full bytes overflow 16 bits


@pytest.mark.skipif(not Path("/proc/self/maps").is_file(), reason="no list of mapped memory is here")
def test_signal_handlers_have_a_stack_after_openvino(for_openvino: tuple[Lowered, list[OpenVinoSession]]) -> None:
    """The last test of these sessions: they end here."""
    sessions = for_openvino[1]
    while sessions:
        del sessions[0]
        gc.collect()
    stack = (ctypes.c_size_t * 3)()  # its address, flags and a size
    assert ctypes.CDLL(None).sigaltstack(None, stack) == 0
    ranges = [line.split()[0].split("-") for line in Path("/proc/self/maps").read_text().splitlines()]
    assert stack[1] or any(int(start, 16) <= stack[0] < int(end, 16) for start, end in ranges)


def test_three_bits_narrow_and_a_layer_in_float(frame_with_offsets: FrameGraph, traced_with_offsets: Traced) -> None:
    lowered = runtime_graph(traced_with_offsets())
    report = agrees(frame_with_offsets, lowered)
    assert f"{IN_FLOAT}.weight" not in lowered.weights and f"{IN_FLOAT}.input_quantizer" not in report.taps
    assert {weight.bits for weight in lowered.weights.values()} == {3}
    session = OrtSession(lowered.model)
    assert foreign_quantizers(session.optimised, weights=lowered.weights) == []


def test_offsets_of_linear_layers_go_into_their_biases(
    frame_with_offsets: FrameGraph, traced_with_offsets: Traced
) -> None:
    frame, lowered = frame_with_offsets, runtime_graph(traced_with_offsets())
    assert all(grid.offset for grid in lowered.grids.values())
    fates = {each.weight: each for each in layer_fates(OrtSession(lowered.model).optimised, weights=lowered.weights)}
    assert {each.operator for each in fates.values()} == {"MatMulIntegerToFloat", "Conv"}
    name = "pts_bbox_head.transformer.can_bus_mlp.2"
    layer, (grid,) = frame.detector.get_submodule(name), [lowered.grids[f"{name}.input_quantizer"]]
    expected = layer.bias + layer.weight_quantizer(layer.weight).sum(1) * grid.offset
    (negated,) = (t for t in lowered.model.graph.initializer if t.name == f"{name}.bias.shifted.negated")
    assert np.allclose(-onnx.numpy_helper.to_array(negated), expected.detach().numpy(), atol=1e-6)


def test_the_gate_sees_a_runtime_that_quantizes_inputs_anew(
    frame_with_offsets: FrameGraph, traced_with_offsets: Traced, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An offset parts a product from its grid, and ONNX Runtime then makes integers of its own of the input."""
    monkeypatch.setattr(lowering, "fold_offsets", lambda *_, **__: None)
    lowered = runtime_graph(traced_with_offsets())
    assert (
        gate(frame_with_offsets, lowered)
        .failure()
        .startswith("at pts_bbox_head.transformer.can_bus_mlp.2.input_quantizer")
    )
    fates = layer_fates(OrtSession(lowered.model).optimised, weights=lowered.weights)
    assert "MatMulNBits" in {each.operator for each in fates if each.fate == "changed"}


def test_five_to_seven_bits_are_bytes_whose_pairs_fit_in_sixteen(lowered_of_bytes: Lowered) -> None:
    """On x86 without VNNI two products are added in 16 bits, and what does not fit is clipped without a word."""
    lowered = lowered_of_bytes
    tensors = initialisers(lowered.model)
    for layer, width in WIDTH_OF.items():
        weight, grid = lowered.weights[f"{layer}.weight"], lowered.grids[f"{layer}.input_quantizer"]
        assert tensors[weight.name].data_type == onnx.TensorProto.INT8 and weight.bits == width
        assert weight.integers.min() >= -(2 ** (width - 1)) and np.abs(weight.integers).max() > 2 ** (width - 2)
        assert 2 * (grid.high - grid.low) * np.abs(weight.integers.astype(int)).max() * weight.finer < 2**15


def test_weights_are_written_as_the_integers_of_their_quantizers(frame: FrameGraph, lowered: Lowered) -> None:
    tensors = initialisers(lowered.model)
    compared = 0
    for path, layer in quantized_layers(frame.detector).items():
        for weight in layer.quantized_weights():
            tensor = tensors.get(f"{path}.{weight.name}")
            if tensor is None:
                continue
            assert tensor.data_type == onnx.TensorProto.INT4
            integers = onnx.numpy_helper.to_array(tensor).astype(np.int8)
            expected = weight.quantizer.integers(weight.value).numpy()
            rows = expected.transpose(2, 3, 1, 0).reshape(-1, len(expected)) if expected.ndim == 4 else expected.T
            assert np.array_equal(integers, expected) or np.array_equal(integers, rows)
            compared += 1
    assert compared > 30


def test_names_of_inputs_outputs_and_taps_are_the_detectors(frame: FrameGraph, lowered: Lowered) -> None:
    graph = lowered.model.graph
    assert [value.name for value in graph.input] == ["image", "can_bus", "lidar2img", "prev_bev", "has_prev_bev"]
    assert [value.name for value in graph.output] == ["class_logits", "box_codes", "bev"]
    assert "img_backbone.layer1.0.conv1.input_quantizer/steps" in lowered.taps
    assert not any(name.startswith("detector.") for name in initialisers(lowered.model))


def test_all_but_the_first_convolution_run_in_integers(lowered: Lowered) -> None:
    fates = {each.weight: each for each in layer_fates(OrtSession(lowered.model).optimised, weights=lowered.weights)}
    assert fates["img_backbone.layer1.0.conv1.weight"].operator == "MatMulIntegerToFloat" and lowered.biases == {}
    assert fates["img_backbone.layer1.0.conv2.weight"].operator == "MatMulIntegerToFloat"  # a sum follows, no grid
    projection = "pts_bbox_head.transformer.encoder.layers.0.attentions.0.output_proj.weight"
    assert fates[projection].operator == "MatMulIntegerToFloat"
    in_float = [each.weight for each in fates.values() if each.fate != "integers"]
    assert in_float == ["img_backbone.conv1.weight"] and len(fates) == 56


def test_sampling_lists_its_rows(lowered: Lowered, traced: Traced) -> None:
    kinds, fixed = ([node.op_type for node in graph.graph.node] for graph in (lowered.model, traced()))
    assert kinds.count("NonZero") == 1 and fixed.count("NonZero") == 0
    # the rotation of the history is what remains
    assert kinds.count("GridSample") == 1 < fixed.count("GridSample")


def test_biases_of_integers_are_as_near_as_half_a_step(frame: FrameGraph, lowered_as_large: Lowered) -> None:
    lowered = lowered_as_large
    agrees(frame, lowered)
    fates = {each.weight: each for each in layer_fates(OrtSession(lowered.model).optimised, weights=lowered.weights)}
    assert fates["img_backbone.layer1.0.conv1.weight"].operator == "QLinearConv"
    assert set(lowered.biases) == {
        f"img_backbone.layer{stage}.{block}.conv1.bias" for stage in (1, 2) for block in (0, 1)
    }
    for name, values in lowered.biases.items():
        layer = name.removesuffix(".bias")
        weight, grid = lowered.weights[f"{layer}.weight"], lowered.grids[f"{layer}.input_quantizer"]
        assert weight.finer == 16  # 16 * -8 is the least that a byte holds; 2 * 63 * 128 < 2**15
        step = grid.scale * weight.scale / 16
        off = np.abs(values - frame.detector.get_parameter(name).detach().numpy())
        assert (off <= step * 0.501).all() and (off > 0).any()


def test_with_biases_puts_back_what_was_there(frame: FrameGraph, lowered_as_large: Lowered) -> None:
    lowered = lowered_as_large
    before = {name: frame.detector.get_parameter(name).detach().clone() for name in lowered.biases}
    with with_biases(frame.detector, lowered.biases):
        assert any(not torch.equal(frame.detector.get_parameter(name), value) for name, value in before.items())
    assert all(torch.equal(frame.detector.get_parameter(name), value) for name, value in before.items())


def nearest(model: onnx.ModelProto) -> str:
    node = next(node for node in model.graph.node if node.op_type == "GridSample")
    next(entry for entry in node.attribute if entry.name == "mode").s = b"nearest"
    return "differs by up to"


def another_scale(model: onnx.ModelProto) -> str:
    tensor = initialisers(model)["img_neck.lateral_convs.0.conv.weight_scale"]
    tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) * np.float32(1.1), tensor.name))
    return "at img_neck.fpn_convs.0.conv.input_quantizer the graph differs by up to"


def no_clip(model: onnx.ModelProto) -> str:
    tensor = initialisers(model)["limit.63"]
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.asarray(255, np.uint8), tensor.name))
    return "at "


def another_class(model: onnx.ModelProto) -> str:
    tensor = initialisers(model)["pts_bbox_head.cls_branches.1.6.bias.negated"]
    tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) + np.float32(0.01), tensor.name))
    return "all taps agree, but outputs differ: class_logits by 0.01"


@pytest.mark.parametrize("damage", [nearest, another_scale, no_clip, another_class])
def test_the_gate_names_what_differs(frame: FrameGraph, lowered: Lowered, damage: Any) -> None:
    damaged = onnx.ModelProto()
    damaged.CopyFrom(lowered.model)
    sentence, session = damage(damaged), OrtSession(damaged, taps=lowered.taps)
    sequence = [random_feeds(frame, seed=seed) for seed in (2, 3)]
    report = check(frame, session=session, tapped=session, sequence=sequence, biases=lowered.biases)
    assert sentence in report.failure()


@pytest.mark.parametrize(
    ("differing", "count", "passes"), [(1, 100, True), (2, 100, False), (4, 3000, True), (5, 3000, False)]
)
def test_one_number_of_a_small_tap_may_lie_at_a_tie(differing: int, count: int, passes: bool) -> None:
    tap = Tap("layer", largest=1, total=differing, count=count, differing=differing)
    assert (GateReport(taps={"layer": tap}).failure() == "") is passes


def test_metadata_comes_back(lowered: Lowered) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(lowered.model)
    write_metadata(model, {"classes": ["car", "bus"], "score": None})
    assert read_metadata(model) == {"classes": ["car", "bus"], "score": None}
    assert read_metadata(lowered.model) == {}
