"""Very small detectors with random weights, quantized, and their frames; a BEVFormer of one encoder layer for most."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from qdbev.data.nuscenes.rig import nuscenes_lidar2img
from qdbev.detectors.bevformer import build_bevformer
from qdbev.detectors.detector import Scene
from qdbev.detectors.frame_graph import FrameGraph
from qdbev.quantization import (
    InputGrid,
    WeightGrid,
    fold_batchnorm,
    make_plan,
    observing,
    quantize,
    set_parts,
    with_bits,
)
from tests.detectors.bevformer.variants import NANO

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

IMAGE_PX = (32, 64)
CAMERAS = 2
SMALLEST: dict[str, Any] = NANO | {
    "backbone_base_channels": 16,
    "backbone_stages": 2,
    "backbone_out_indices": (0, 1),
    "backbone_dcn_stages": (False, False),
    "neck_in_channels": (16, 32),
    "channels": 32,
    "heads": 2,
    "hidden": 32,
    "bev_rows": 8,
    "bev_columns": 6,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "queries": 10,
    "cameras": CAMERAS,
}

Make = Callable[..., FrameGraph]
Traced = Callable[[], Any]


def random_feeds(frame: FrameGraph, *, seed: int) -> dict[str, Tensor]:
    """Images of noise and some motion, as a frame of a scene brings them."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(frame.inputs["image"].shape, generator=generator)
    can_bus = torch.zeros(1, 18)
    can_bus[0, [0, 1, 16, 17]] = torch.tensor([1.5, -0.5, 0.7, 4.0])
    return {"image": images, "can_bus": can_bus, "lidar2img": frame.inputs["lidar2img"]}


def make_frame(weight_bits: int = 4, activation_bits: int = 6, **options: Any) -> FrameGraph:
    """The detector, its ranges set by one frame of noise."""
    torch.manual_seed(0)
    detector = build_bevformer(**(SMALLEST | options.pop("variant", {}))).eval()
    frame = detector.frame_graph(Scene(IMAGE_PX, matrices()))
    feeds = random_feeds(frame, seed=1)

    def observe() -> None:
        first = frame.run({**feeds, **frame.start()})
        second = frame.run({**feeds, **frame.carry(first)})
        detector.decode(second["bev"])  # classes of the first decoder layer too, which a frame leaves out

    put_onto_bits(detector, weight_bits, activation_bits, observe=observe, **options)
    return frame


def matrices() -> Tensor:
    """Two of nuScenes' cameras."""
    return torch.from_numpy(nuscenes_lidar2img(image_size_px=IMAGE_PX[::-1], scale=1.0)[:CAMERAS]).float()


def put_onto_bits(
    detector: Any, weight_bits: int, activation_bits: int, *, observe: Callable[[], object], **options: Any
) -> None:
    """Fold, plan and quantize; ranges come of what ``observe`` runs, which all quantized layers take part in."""
    float_layers, bits = options.pop("float_layers", ()), options.pop("bits", {})
    for module in detector.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.bias, std=0.5)
    with torch.no_grad():
        fold_batchnorm(detector, observe)
    plan = make_plan(
        detector,
        parts=detector.parts(),
        weight_bits=weight_bits,
        activation_bits=activation_bits,
        float_layers=float_layers,
    )
    if bits:
        mixed = {site.path: (site.weight_bits, site.activation_bits) for site in plan.quantized} | bits
        plan = with_bits(plan, mixed)
    quantize(detector, plan, weights=WeightGrid(follow=False), inputs=InputGrid(**options))
    with torch.no_grad(), observing(detector):
        observe()
    set_parts(detector, {site.part for site in plan.quantized})


@pytest.fixture(scope="session")
def frame() -> FrameGraph:
    """W4A6; look, do not change."""
    return make_frame()


@pytest.fixture(scope="session")
def traced(frame: FrameGraph) -> Traced:
    """Its neutral graph, a new copy at each call."""
    return copies(frame)


def copies(frame: FrameGraph) -> Traced:
    """Trace a frame once; each call gives a copy, as whoever lowers a graph changes it."""
    from qdbev.export.onnx.neutral import neutral_graph

    graph = neutral_graph(frame)

    def copy() -> Any:
        other = type(graph)()
        other.CopyFrom(graph)
        return other

    return copy
