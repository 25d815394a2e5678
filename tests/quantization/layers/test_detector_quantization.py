"""The quantized detector of the pipelines: its plan, its nominal size, and the device its example frames go to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import profiles
from pipelines.assembly import example, quantized
from pipelines.assembly.detector import build_detector
from pipelines.assembly.quantized import Quantized, detector_plan, quantized_cost
from pipelines.assembly.samples import Split
from profiles.sections.schedule import PARTS
from qdbev.detectors.bevformer import BEVFormer
from qdbev.quantization import Folding

FIRST_AND_LAST = {"img_backbone.conv1", "pts_bbox_head.cls_branches.2.6", "pts_bbox_head.reg_branches.2.4"}
ENDS_AT_4_BITS = ["quantization.first_last_bits=4"]
NOWHERE = Split(Path(), "v1.0-mini", [{"token": str(number)} for number in range(5)], "")


@pytest.fixture(scope="module")
def nano() -> BEVFormer:
    return build_detector(profiles.load("w8a8").model)


def test_first_and_last_layers_are_the_first_convolution_and_both_outputs(nano: BEVFormer) -> None:
    assert len(nano.pts_bbox_head.cls_branches) == 3
    plan = detector_plan(nano, section=profiles.load("w8a8", overrides=ENDS_AT_4_BITS).quantization)
    assert {site.path for site in plan if site.weight_bits == 4} == FIRST_AND_LAST
    assert {site.path for site in plan if site.activation_bits == 4} == FIRST_AND_LAST
    outputs = [nano.get_submodule(path) for path in sorted(FIRST_AND_LAST)[1:]]
    assert [output.out_features for output in outputs] == [10, 10]  # classes, and numbers of a box code


def test_without_first_last_bits_all_layers_are_alike(nano: BEVFormer) -> None:
    plan = detector_plan(nano, section=profiles.load("w8a8").quantization)
    assert {site.weight_bits for site in plan.quantized} == {8}


@pytest.mark.parametrize(("parts", "bits"), [(PARTS, 8), (PARTS[:2], 32)])
def test_nominal_size_counts_the_profiles_bits_for_every_parameter(
    nano: BEVFormer, parts: tuple[str, ...], bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantized, "count_macs", lambda *_: [])
    profile = profiles.load("w8a8", overrides=ENDS_AT_4_BITS)
    plan = detector_plan(nano, section=profile.quantization)
    model = Quantized(nano, Folding(pairs=(), unfolded={}), plan, parts)
    cost = quantized_cost(model, profile=profile, split=NOWHERE, trainable=2**20)
    assert cost["size_nominal_mb"] == bits / 8


def test_first_positions_stay_in_float_unless_asked_for(nano: BEVFormer) -> None:
    constants = {"pts_bbox_head.query_embedding", "pts_bbox_head.transformer.reference_points"}
    plan = detector_plan(nano, section=profiles.load("w4a6").quantization)
    assert {site.path for site in plan if site.kind != "float" and not site.quantized} == constants
    assert all("constants" in plan.site(path).reason for path in constants)
    literal = profiles.load("w4a6", overrides=["quantization.first_positions=quantized"])
    assert {site.weight_bits for site in detector_plan(nano, section=literal.quantization).quantized} == {4}
    assert constants <= {site.path for site in detector_plan(nano, section=literal.quantization).quantized}


class Stranger(nn.Module):
    """Has its parameters on another device than the images, and refuses what is not there, as CUDA would."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(1, device="meta"))
        self.calls: list[tuple[str, bool]] = []
        self.resets = 0
        self.history = SimpleNamespace(reset=self._reset)

    def _reset(self) -> None:
        self.resets += 1

    def forward(self, inputs: dict[str, torch.Tensor], data_samples: list[str], mode: str) -> None:
        assert mode == "predict"
        assert inputs["img"].device == self.weight.device
        self.calls.append((data_samples[0], self.training))


@pytest.mark.parametrize("frames", [1, 2])
def test_example_frames_go_to_the_detectors_device(frames: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def batches(split: Split, *, streams: int, workers: int) -> Iterator[dict[str, Any]]:
        for sample in split.samples:
            yield {"inputs": {"img": torch.zeros(1)}, "data_samples": [sample["token"]]}

    monkeypatch.setattr(example, "streaming_dataset", lambda split, *, model: split)
    monkeypatch.setattr(example, "streaming_batches", batches)
    detector: Any = Stranger()
    example.Example(detector, profile=profiles.load("w8a8"), split=NOWHERE, frames=frames)()
    assert detector.calls == [("0", False), ("1", False)][:frames]
    assert detector.resets == 2  # no history of another scene before, none left behind
