"""Data-free quantization of the shipped detector: equal ranges, the same detections, its own pairs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import profiles
from pipelines.assembly.example import Example
from pipelines.assembly.job import Job
from pipelines.assembly.quantized import folded, load_quantized
from pipelines.assembly.samples import Split, load_split, streaming_dataset
from pipelines.assembly.weights import float_detector
from pipelines.calibration.calibrated import calibrated
from pipelines.store.artifacts import Store
from profiles import Profile
from qdbev.data.queues.batches import streaming_batches
from qdbev.detectors.bevformer import BEVFormer
from qdbev.quantization import equalise, find_connections, quantized_layers
from qdbev.quantization.equalisation.cross_layer import incoming_range, outgoing_range


def outputs(detector: BEVFormer, *, profile: Profile, split: Split) -> list[Tensor]:
    """Class logits and box codes of the first frame, whatever detections are made of them."""
    first = Split(split.root, split.version, split.samples[:1], "")
    with torch.no_grad():
        for batch in streaming_batches(streaming_dataset(first, model=profile.model), streams=1, workers=0):
            decoded = detector({"img": batch["inputs"]["img"]}, batch["data_samples"], mode="tensor")
    return [decoded.logits_LBKC, decoded.code_LBK10]


def test_equalised_nano_detects_the_same(tiny_synthetic: Path, tmp_path: Path) -> None:
    sizes = ["data.train_scenes=3", "data.val_scenes=2"]
    profile = profiles.load("w4a6", overrides=[f"data.source={tiny_synthetic}", *sizes])
    detector, _ = float_detector(Job(profile, Store(tmp_path)))
    split = load_split(profile.data, name="train")
    folded(detector, profile=profile, split=split)
    expected = outputs(detector, profile=profile, split=split)
    stated = detector.value_pairs()
    found = find_connections(detector, Example(detector, profile=profile, split=split), stated=stated)
    # 2 + 2 + 2 blocks of the backbone, the CAN bus, 2 encoder layers and 3 decoder layers
    assert len(found.pairs) == 6 + 1 + 2 * (1 + 2) + 3 * (1 + 2 + 1 + 1)
    assert len(stated) == 2 * 2 + 3 and len(set(stated)) == len(stated)
    for layer, word in {"img_backbone.conv1": "add_", "img_neck.lateral_convs.1.conv": "upsample"}.items():
        assert found.refused[layer].startswith(word)
    equalise(detector, found.pairs)
    for pair in found.pairs:
        (second,) = pair.seconds
        torch.testing.assert_close(
            outgoing_range(detector, pair.first), incoming_range(detector, second), rtol=1e-4, atol=0.0
        )
    for made, want in zip(outputs(detector, profile=profile, split=split), expected, strict=True):
        torch.testing.assert_close(made, want, rtol=1e-5, atol=1e-5 * float(want.abs().max()))


@pytest.mark.parametrize("method", ["ptq", "dfq"])
def test_weights_may_have_one_range_for_a_whole_tensor(
    method: str, tiny_synthetic: Path, tmp_path: Path, mite: str
) -> None:
    sizes = ["data.train_scenes=3", "data.val_scenes=2", "calibration.samples=1"]
    words = [f"data.source={tiny_synthetic}", *sizes, f"calibration.method={method}"]
    store, outcomes = Store(tmp_path), {}
    for granularity in ("channel", "tensor"):
        profile = profiles.load(
            "w4a6", model=mite, overrides=[*words, f"quantization.weight_granularity={granularity}"]
        )
        artifact, _ = calibrated(Job(profile, store))
        detector = load_quantized(artifact, profile=profile).detector  # from packed weights
        weights = [weight for layer in quantized_layers(detector).values() for weight in layer.quantized_weights()]
        assert {weight.quantizer.scale.ndim for weight in weights} == {0 if granularity == "tensor" else 1}
        outcomes[granularity] = artifact.digest
    assert outcomes["channel"] != outcomes["tensor"]
