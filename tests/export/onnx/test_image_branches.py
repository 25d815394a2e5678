"""Image branches of mmdet3d detectors as graphs: backbones and necks of mmdet, equal at every tap, or refused."""

from __future__ import annotations

import copy
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

from qdbev.detectors.configured import ImageBranch
from qdbev.detectors.frame_graph import TensorGraph
from qdbev.export.onnx.device.lowering import device_graph
from qdbev.export.onnx.device.session import DeviceSession
from qdbev.export.onnx.execution import OpenVinoSession, OrtSession
from qdbev.export.onnx.gate.check import GateReport, check
from qdbev.export.onnx.lowering import Lowered, runtime_graph
from qdbev.export.onnx.neutral import neutral_graph
from qdbev.export.onnx.qonnx.lowering import quant_graph
from qdbev.export.onnx.qonnx.session import QonnxSession
from qdbev.export.targets.device_rules import DEVICE_RULES
from qdbev.export.targets.legal import put_onto_legal_bits
from qdbev.export.targets.structure import breaches
from tests.detectors.configured.conftest import fcos3d, key_frame
from tests.detectors.configured.test_image_branch import Levels, images, toy
from tests.export.onnx.conftest import put_onto_bits

BN: dict[str, Any] = {"norm_cfg": {"type": "BN"}, "norm_eval": False}
BACKBONES: dict[str, dict[str, Any]] = {
    "deformable ResNet": {
        "type": "mmdet.ResNet",
        "depth": 50,
        "base_channels": 8,
        "num_stages": 3,
        "strides": (1, 2, 2),
        "dilations": (1, 1, 1),
        "out_indices": (0, 1, 2),
        "dcn": {"type": "DCNv2", "deform_groups": 2, "fallback_on_stride": False},
        "stage_with_dcn": (False, True, False),
        **BN,
    },
    "Swin": {
        "type": "mmdet.SwinTransformer",
        "embed_dims": 16,
        "depths": (1, 2, 1),
        "num_heads": (1, 2, 4),
        "strides": (4, 2, 2),
        "window_size": 4,
        "out_indices": (0, 1, 2),
        "drop_path_rate": 0.1,
    },
    "CSPDarknet": {"type": "mmdet.CSPDarknet", "deepen_factor": 0.33, "widen_factor": 0.125, "out_indices": (2, 3, 4)},
}
NECKS: dict[str, dict[str, Any]] = {
    "deformable ResNet": {"type": "mmdet.FPN", "in_channels": [32, 64, 128], "out_channels": 32, "num_outs": 3},
    "Swin": {"type": "mmdet.FPN", "in_channels": [16, 32, 64], "out_channels": 32, "num_outs": 3},
    "CSPDarknet": {
        "type": "mmdet.YOLOXPAFPN",
        "in_channels": [32, 64, 128],
        "out_channels": 32,
        "num_csp_blocks": 1,
    },
}


def make(**changed: Any) -> ImageBranch:
    """W4A6, its ranges set by two key frames of noise."""
    detector = fcos3d(**changed)
    put_onto_bits(
        detector,
        4,
        6,
        observe=lambda: [detector(*key_frame(seed), mode="predict") for seed in (1, 2)],
        may_be_unsigned=True,
    )
    return ImageBranch(detector, *key_frame(3))


def agrees(branch: ImageBranch, lowered: Lowered, *, session: Any = OrtSession) -> GateReport:
    onnx.checker.check_model(lowered.model, full_check=True)
    plain, tapped = session(lowered.model), session(lowered.model, taps=lowered.taps)
    sequence = [branch.feeds(*key_frame(seed)) for seed in (4, 5)]
    report = check(branch, session=plain, tapped=tapped, sequence=sequence, biases=lowered.biases)
    report.layers, report.foreign = plain.layers(lowered.weights), plain.foreign(lowered.weights)
    assert (report.failure(), report.frames, report.free_boxes) == ("", 2, None)
    assert set(report.taps) == set(lowered.grids) and max(report.outputs.values()) < 1e-4
    assert all(name.startswith(("backbone.", "neck.")) for name in report.taps)
    return report


@pytest.fixture(scope="module")
def example() -> ImageBranch:
    """ResNet and FPN; look, do not change."""
    return make()


@pytest.mark.slow
@pytest.mark.parametrize("kind", BACKBONES)
def test_backbones_of_mmdet_agree(kind: str) -> None:
    branch = make(backbone=BACKBONES[kind], neck=NECKS[kind])
    report = agrees(branch, runtime_graph(neutral_graph(branch, lists_rows=True)))
    assert branch.paths == ["backbone", "neck"]
    fates = {layer.weight: layer.fate for layer in report.layers}
    deformable = {
        name for name in fates if kind == "deformable ResNet" and "layer2" in name and ".conv2.weight" in name
    }
    assert len(deformable) == (4 if kind == "deformable ResNet" else 0)
    assert {fates[name] for name in deformable} <= {"float"}  # sampled values lie between grids
    assert sum(fate == "integers" for fate in fates.values()) > 0.8 * (len(fates) - len(deformable))


def test_an_output_of_a_convolution_is_wanted_as_it_is(example: ImageBranch) -> None:
    """Levels of FPN are convolutions; without a node of its own, who rewrites one would not see that it is read."""
    lowered = runtime_graph(neutral_graph(example))
    producers = {name: node for node in lowered.model.graph.node for name in node.output}
    assert "Identity" not in {producers[name].op_type for name in example.outputs}  # it has done its work
    report = agrees(example, lowered)
    assert [layer.fate for layer in report.layers].count("float") == 1  # the first, of three channels


@pytest.mark.slow
def test_openvino_and_qonnx_agree(example: ImageBranch) -> None:
    agrees(example, quant_graph(neutral_graph(example)), session=QonnxSession)
    pytest.importorskip("openvino")
    agrees(example, runtime_graph(neutral_graph(example), target="openvino"), session=OpenVinoSession)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["tensorrt", "qnn"])
def test_graphs_for_devices_keep_every_rule(example: ImageBranch, target: str) -> None:
    legal = copy.deepcopy(example)
    put_onto_legal_bits(legal.detector, target=target)
    lowered = device_graph(neutral_graph(legal), target=target)
    assert [str(breach) for breach in breaches(lowered.model, rules=DEVICE_RULES[target])] == []
    agrees(legal, lowered, session=DeviceSession)


class Scaled:
    """A runtime whose first level is off by a share of its largest number."""

    def __init__(self, branch: TensorGraph, *, share: float) -> None:
        self.branch, self.share = branch, share

    def run(self, feeds: dict[str, Tensor]) -> dict[str, Tensor]:
        outputs = self.branch.run(feeds)
        level = outputs["level_0"]
        return outputs | {"level_0": level + self.share * level.abs().max()}


class Tenth(TensorGraph):
    """Maps of numbers around a ten-thousandth, which no unit tells from nothing."""

    outputs = ("level_0",)
    foreign = True

    def __init__(self) -> None:
        super().__init__()
        self.detector, self.inputs = nn.Identity(), {"image": torch.zeros(1, 3, 2, 2)}

    def forward(self, image: Tensor) -> tuple[Tensor]:
        return (image * 1e-4,)


@pytest.mark.parametrize(
    ("share", "failure"), [(5e-4, ""), (2e-3, "outputs differ: level_0 by 0.002"), (float("nan"), "nan")]
)
def test_maps_are_measured_by_their_own_size(share: float, failure: str) -> None:
    branch = Tenth()
    session = Scaled(branch, share=share)
    report = check(branch, session=session, tapped=session, sequence=[{"image": torch.ones(1, 3, 2, 2)}], biases={})
    assert failure in report.failure() and bool(failure) == bool(report.failure())


class Looking(Tenth):
    """It brightens what is dark."""

    def forward(self, image: Tensor) -> tuple[Tensor]:
        return (image * 2 if image.mean() < 1 else image,)


class Stranger(Tenth):
    """It calls a library that has operators of its own in ONNX."""

    def forward(self, image: Tensor) -> tuple[Tensor]:
        from mmcv.ops import modulated_deform_conv2d

        offset, mask = torch.zeros(1, 2, 2, 2), torch.ones(1, 1, 2, 2)
        weight = torch.ones(3, 3, 1, 1)
        return (modulated_deform_conv2d(image, offset, mask, weight, torch.zeros(3), 1, 0, 1, 1, 1),)


class Unknown(Tenth):
    """ONNX has no determinant of a matrix's exponential."""

    def forward(self, image: Tensor) -> tuple[Tensor]:
        return (torch.linalg.matrix_exp(image),)


class Twice(Levels):
    """It looks at what it made of the images once more."""

    def forward(self, maps: Tensor, **_told: Any) -> list[Tensor]:
        return [self.layer(self.layer(maps).relu())]


def test_a_layer_that_runs_twice_is_refused() -> None:
    detector = toy(backbone=Twice())
    put_onto_bits(detector, 4, 6, observe=lambda: detector(images(), [], mode="predict"))
    with pytest.raises(ValueError, match=r"backbone\.layer runs more than once on different tensors"):
        neutral_graph(ImageBranch(detector, images(), []))


@pytest.mark.parametrize(
    ("graph", "sentence"),
    [
        (Looking, r"looks at numbers of its tensors \(Tensor.__bool__\)"),
        (Stranger, "an operator MMCVModulatedDeformConv2d of mmcv, which no target runs"),
        (Unknown, "the detector cannot be written as ONNX: Exporting the operator 'aten::linalg_matrix_exp'"),
    ],
)
def test_what_no_graph_can_say_is_refused(graph: type[TensorGraph], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        neutral_graph(graph())
