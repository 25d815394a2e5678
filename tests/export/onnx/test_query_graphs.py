"""PETR and DETR3D as graphs: images and cameras alone go in, padding is part of the graph, every target computes it."""

from __future__ import annotations

import copy
import runpy
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from mmdet3d.structures import Det3DDataSample
from torch import Tensor

from qdbev.detectors.detector import Scene
from qdbev.detectors.detr3d import build_detr3d
from qdbev.detectors.frame_graph import FrameGraph
from qdbev.detectors.petr import build_petr
from qdbev.detectors.queries.detector import QueryDetector
from qdbev.export.onnx import lowering
from qdbev.export.onnx.device.lowering import device_graph
from qdbev.export.onnx.device.session import DeviceSession
from qdbev.export.onnx.execution import OpenVinoSession, OrtSession
from qdbev.export.onnx.gate.check import GateReport, check
from qdbev.export.onnx.gate.node_table import foreign_quantizers_of_openvino, layer_fates_of_openvino
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
from qdbev.quantization import count_macs
from tests.detectors.queries.variants import DETR3D_MITE, PETR_MITE
from tests.export.onnx.conftest import CAMERAS, IMAGE_PX, Traced, copies, matrices, put_onto_bits

SHALLOW: dict[str, Any] = {"backbone_stages": 2, "backbone_out_indices": (0, 1), "neck_in_channels": (8, 16)}
SHALLOW["backbone_dcn_stages"] = (False, False)
PADDING_PX = (6, 20)
EXAMPLE = Path(__file__).resolve().parents[3] / "docs" / "examples" / "run_onnx.py"


def build(kind: str, *, variant: Mapping[str, Any] = MappingProxyType({})) -> QueryDetector:
    torch.manual_seed(0)
    if kind == "petr":
        return build_petr(**(PETR_MITE | SHALLOW | variant))
    detector = build_detr3d(**(DETR3D_MITE | SHALLOW), cameras=CAMERAS)
    for name, parameter in detector.named_parameters():  # so that looks differ, and boxes move
        if "attention_weights.weight" in name or name.endswith("4.weight"):
            torch.nn.init.normal_(parameter, std=0.5)
    return detector


def batch(seed: int, *, valid_px: tuple[int, int] | None = None) -> tuple[dict[str, Tensor], list[Det3DDataSample]]:
    """One frame of noise, and cameras that turn with the vehicle."""
    angle, turned = torch.tensor(0.1 * seed), torch.eye(4)
    turned[:2, :2] = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()]).view(2, 2)
    frame = {"token": f"frame {seed}", "scene": "scene", "index_in_scene": seed, "prev_exists": True}
    frame |= {"can_bus": torch.zeros(18), "lidar2img": matrices() @ turned, "img_shape": IMAGE_PX}
    frame |= {"valid_shape": valid_px or (IMAGE_PX[0] - PADDING_PX[0], IMAGE_PX[1] - PADDING_PX[1])}
    sample = Det3DDataSample()
    sample.set_metainfo({"frames": [frame]})
    images = torch.randn(1, 1, CAMERAS, 3, *IMAGE_PX, generator=torch.Generator().manual_seed(seed))
    return {"img": images}, [sample]


def make(kind: str, weight_bits: int = 4, activation_bits: int = 6, **options: Any) -> FrameGraph:
    detector = build(kind, variant=options.pop("variant", {})).eval()
    frame = detector.frame_graph(Scene(IMAGE_PX, matrices(), padding_px=PADDING_PX))
    put_onto_bits(detector, weight_bits, activation_bits, observe=lambda: detector(*batch(1)), **options)
    return frame


def feeds(frame: FrameGraph, seed: int) -> dict[str, Tensor]:
    inputs, (sample,) = batch(seed)
    return frame.feeds(inputs, sample, place=0)


def agrees(frame: FrameGraph, lowered: Lowered, *, session: Any = OrtSession) -> GateReport:
    onnx.checker.check_model(lowered.model, full_check=True)
    plain, tapped = session(lowered.model), session(lowered.model, taps=lowered.taps)
    sequence = [feeds(frame, seed) for seed in (2, 3, 4)]
    report = check(frame, session=plain, tapped=tapped, sequence=sequence, biases=lowered.biases)
    report.layers, report.foreign = plain.layers(lowered.weights), plain.foreign(lowered.weights)
    assert (report.failure(), report.frames, report.taps_change) == ("", 3, False)
    assert set(report.taps) == set(lowered.grids) and max(report.outputs.values()) < 1e-4
    return report


@pytest.fixture(scope="module", params=["petr", "detr3d"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def frame(kind: str) -> FrameGraph:
    """W4A6; look, do not change."""
    return make(kind, may_be_unsigned=True)


@pytest.fixture(scope="module")
def traced(frame: FrameGraph) -> Traced:
    return copies(frame)


@pytest.fixture(scope="module")
def lowered(traced: Traced) -> Lowered:
    return runtime_graph(traced())


def test_a_frame_gives_what_the_detector_gives(frame: FrameGraph) -> None:
    for seed in (2, 3):
        with torch.no_grad():
            decoded = frame.detector(*batch(seed))
        given = frame.run(feeds(frame, seed))
        assert list(given) == ["class_logits", "box_codes"]
        assert (given["class_logits"] - decoded.logits_LBKC[-1]).abs().max() < 1e-5
        assert (given["box_codes"] - decoded.code_LBK10[-1]).abs().max() < 1e-4


def test_images_and_cameras_alone_go_in(kind: str, frame: FrameGraph, lowered: Lowered) -> None:
    names = ["image", {"petr": "img2lidar", "detr3d": "lidar2img"}[kind]]
    assert [value.name for value in lowered.model.graph.input] == names == list(frame.inputs)
    assert list(frame.meanings) == [*names, "class_logits", "box_codes"]
    assert (frame.carried, frame.start(), frame.carry({})) == ({}, {}, {})
    types = {tensor.data_type for tensor in lowered.model.graph.initializer}
    assert onnx.TensorProto.DOUBLE not in types
    casts = [node.attribute[0].i for node in lowered.model.graph.node if node.op_type == "Cast"]
    assert onnx.TensorProto.DOUBLE not in casts  # devices have no float64


def test_cameras_of_petr_are_inverted_in_float64() -> None:
    frame = build("petr").frame_graph(Scene(IMAGE_PX, matrices()))
    inverse = np.linalg.inv(matrices().double().numpy()).astype(np.float32)
    assert np.array_equal(frame.inputs["img2lidar"][0].numpy(), inverse)


def test_every_tap_of_a_sequence_agrees_at_w4a6(frame: FrameGraph, lowered: Lowered) -> None:
    report = agrees(frame, lowered)
    fates = {each.fate for each in report.layers if "attn" in each.weight or "ffns" in each.weight}
    assert fates == {"integers"} and report.foreign == []


def test_every_tap_of_a_sequence_agrees_at_w8a8(kind: str) -> None:
    frame = make(kind, 8, 8, may_be_unsigned=True)
    agrees(frame, runtime_graph(neutral_graph(frame)))


def test_openvino_agrees(frame: FrameGraph, traced: Traced) -> None:
    pytest.importorskip("openvino")
    report = agrees(frame, runtime_graph(traced(), target="openvino"), session=OpenVinoSession)
    assert {each.fate for each in report.layers} == {"integers"} and report.foreign == []


def test_openvino_folds_products_of_constants_wrongly(
    kind: str, frame: FrameGraph, traced: Traced, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trap; a version without it needs no zero in front of constants."""
    pytest.importorskip("openvino")
    monkeypatch.setattr(lowering, "let_constants_depend", lambda *_, **__: None)
    lowered = runtime_graph(traced(), target="openvino")
    if kind == "petr":
        with pytest.raises(RuntimeError, match="empty child edge"):
            OpenVinoSession(lowered.model)
    else:
        session = OpenVinoSession(lowered.model, taps=lowered.taps)
        sequence = [feeds(frame, seed) for seed in (2, 3, 4)]
        report = check(frame, session=session, tapped=session, sequence=sequence, biases={})
        assert "output_proj.input_quantizer the graph differs by up to" in report.failure()


def test_qonnx_agrees(frame: FrameGraph, traced: Traced) -> None:
    assert agrees(frame, quant_graph(traced()), session=QonnxSession).free_boxes == 1.0


@pytest.mark.parametrize("target", ["tensorrt", "qnn"])
def test_graphs_for_devices_keep_every_rule(frame: FrameGraph, target: str) -> None:
    legal = copy.deepcopy(frame)
    put_onto_legal_bits(legal.detector, target=target)
    lowered = device_graph(neutral_graph(legal), target=target)
    assert [str(breach) for breach in breaches(lowered.model, rules=DEVICE_RULES[target])] == []
    agrees(legal, lowered, session=DeviceSession)


@pytest.fixture(scope="module")
def deformable() -> tuple[FrameGraph, Traced]:
    """PETR on bottlenecks whose 3x3 convolutions are deformable, behind a pooled map that grids alone read."""
    stage: dict[str, Any] = {"backbone_stages": 1, "backbone_out_indices": (0,), "backbone_dcn_stages": (True,)}
    stage |= {"backbone_depth": 50, "backbone_style": "caffe", "neck_in_channels": (32,)}
    frame = make("petr", variant=stage, may_be_unsigned=True)
    return frame, copies(frame)


def test_deformable_convolutions_are_sampled_and_multiplied(deformable: tuple[FrameGraph, Traced]) -> None:
    frame, traced = deformable
    lowered = runtime_graph(traced())
    fates = {each.weight: each for each in agrees(frame, lowered).layers}
    assert fates["img_backbone.layer1.0.conv2.weight"].fate == "float"  # sampled values lie between grids


def test_deformable_convolutions_count_at_the_width_of_their_grid(deformable: tuple[FrameGraph, Traced]) -> None:
    frame, traced = deformable
    lines = count_macs(frame.detector, lambda: frame.run(frame.inputs))
    expected = {line.path: (line.macs, line.macs * 4 * 6) for line in lines if line.is_layer}
    assert sum("conv2" in path for path in expected) == 6  # three, and what gives their offsets
    assert list(differing(by_layer(counted(quant_graph(traced()).model), paths=expected), expected)) == []


def test_a_runtime_that_rounds_otherwise_with_taps_is_told(frame: FrameGraph, lowered: Lowered) -> None:
    tapped = OrtSession(lowered.model, taps=lowered.taps)

    class Other(OrtSession):
        def run(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {name: value + 1 for name, value in super().run(feeds).items()}

    sequence = [feeds(frame, 2)]
    report = check(frame, session=Other(lowered.model), tapped=tapped, sequence=sequence, biases=lowered.biases)
    assert report.failure() == "the graph computes something else once its taps are looked at"


def test_openvino_names_a_product_by_its_weight_too() -> None:
    """Of some products it keeps no name but that of the weight it turned."""
    weight = SimpleNamespace(get_friendly_name=lambda: "/ffns/MatMul/transpose_b")
    source = SimpleNamespace(get_source_output=lambda: SimpleNamespace(get_node=lambda: weight))
    said = {"layerType": "FullyConnected", "runtimePrecision": "u8", "originalLayersNames": "Multiply_7"}
    operation = SimpleNamespace(
        get_rt_info=lambda: {name: SimpleNamespace(value=value) for name, value in said.items()},
        inputs=lambda: [source, source],
    )
    node = onnx.helper.make_node("MatMul", ["x", "ffns.weight/values"], ["y"], name="/ffns/MatMul")
    exported = onnx.helper.make_model(onnx.helper.make_graph([node], "one", [], []))
    model, ours = SimpleNamespace(get_ops=lambda: [operation]), ["ffns.weight"]
    assert foreign_quantizers_of_openvino(model, exported=exported, weights=ours) == []
    assert [each.fate for each in layer_fates_of_openvino(model, exported=exported, weights=ours)] == ["integers"]
    assert foreign_quantizers_of_openvino(model, exported=exported, weights=[]) == ["Multiply_7"]


def test_a_stream_of_frames_needs_no_history(frame: FrameGraph, lowered: Lowered) -> None:
    streamed = StreamedGraph(frame, session=OrtSession(lowered.model))
    for seed in (2, 4):
        ((token, found),) = streamed.detections(*batch(seed))
        ((_, expected),) = frame.detector.detections(*batch(seed))
        assert token == f"frame {seed}"
        assert (found.scores_3d - expected.scores_3d).abs().max() < 1e-3  # two free runs
        assert len(found) == len(expected) and torch.equal(found.labels_3d[:9], expected.labels_3d[:9])


def test_numpy_alone_runs_a_graph_without_history(
    frame: FrameGraph, lowered: Lowered, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_metadata(lowered.model, {"classes": [f"class {number}" for number in range(10)], "carried": {}})
    onnx.save(lowered.model, tmp_path / "model.onnx")
    images, cameras = zip(
        *((inputs["img"][0], of[0].metainfo["frames"][0]["lidar2img"][None]) for inputs, of in map(batch, (2, 3))),
        strict=True,
    )
    np.savez(tmp_path / "frames.npz", image=np.concatenate(images), lidar2img=np.concatenate(cameras))
    runpy.run_path(str(EXAMPLE))["main"](str(tmp_path / "model.onnx"), str(tmp_path / "frames.npz"))
    printed = capsys.readouterr().out.splitlines()
    assert printed[::11] == ["frame 0", "frame 1"]
    for place, seed in enumerate((2, 3)):
        ((_, found),) = frame.detector.detections(*batch(seed))
        best = f"  {found.scores_3d[0]:.3f} class {found.labels_3d[0]}"
        assert printed[11 * place + 1].startswith(best)


def test_images_padded_otherwise_are_refused() -> None:
    frame = build("petr").frame_graph(Scene(IMAGE_PX, matrices(), padding_px=PADDING_PX))
    inputs, (sample,) = batch(1, valid_px=(30, 44))
    with pytest.raises(ValueError, match="images are 30x44 before padding, this graph takes 26x44 alone: export"):
        frame.feeds(inputs, sample, place=0)
    with pytest.raises(ValueError, match=r"images have shape .* this graph takes"):
        frame.feeds({"img": inputs["img"][..., :32]}, sample, place=0)
