"""Calibration that learns its rounding, or smooths first: artifacts, records, training."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import profiles
from pipelines.assembly.example import Example
from pipelines.assembly.job import Job
from pipelines.assembly.quantized import load_quantized
from pipelines.assembly.samples import Split, load_split, streaming_dataset
from pipelines.assembly.weights import float_detector
from pipelines.calibration.calibrated import calibrated
from pipelines.calibration.reconstruction import Reconstructed
from pipelines.calibration.rounding import Rounded
from pipelines.calibration.smoothing import smoothed
from pipelines.commands import calibrate
from pipelines.store.artifacts import Artifact, Store
from pipelines.training.stages import left_behind, trained_stages
from profiles import Profile
from profiles.sections.schedule import PARTS
from qdbev.data.queues.batches import streaming_batches
from qdbev.quantization import CheckedRun, Compensation, Reconstruction, quantized_layers

Made = Callable[..., tuple[Artifact, str]]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def wanted(tiny_synthetic: Path, mite: str) -> Callable[..., Profile]:
    """The profile w4a6 with one calibration sample and a handful of steps, and any other overrides."""
    sizes = ["data.train_scenes=3", "data.val_scenes=2", "calibration.samples=1", "device=cpu"]

    def profile(*words: str, model: str = mite) -> Profile:
        return profiles.load("w4a6", model=model, overrides=[f"data.source={tiny_synthetic}", *sizes, *words])

    return profile


@pytest.fixture(scope="module")
def made(wanted: Callable[..., Profile], store: Store) -> Made:
    """Calibrate by a method with overrides: the artifact and the sentence about it."""

    def run(method: str, *words: str) -> tuple[Artifact, str]:
        return calibrated(Job(wanted(f"calibration.method={method}", *words), store))

    return run


def _record(artifact: Artifact, name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(artifact.file(name).read_text())
    return document


def _latent(artifact: Artifact) -> dict[str, Tensor]:
    return load_file(artifact.file("latent.safetensors"))


def _off_grid(artifact: Artifact, *, profile: Profile) -> set[str]:
    """Weights that the deployed model has otherwise than the artifact holds them for training."""
    latent, deployed = (load_quantized(artifact, profile=profile, latent=one).detector for one in (True, False))
    packed = quantized_layers(deployed)
    return {
        f"{path}.{weight.name}"
        for path, layer in quantized_layers(latent).items()
        for weight, other in zip(layer.quantized_weights(), packed[path].quantized_weights(), strict=True)
        if not torch.equal(weight.quantizer.integers(weight.value), other.quantizer.integers(other.value))
        or not torch.allclose(weight.quantizer(weight.value), weight.value, rtol=0, atol=1e-6)
    }


ADAROUND = ("calibration.iterations=20", "calibration.learning_rate=0.2")
KEEPS = ("quantization.training_observer=null", "quantization.training_rounding=nearest")


def test_adaround_stores_what_it_learned(made: Made, wanted: Callable[..., Profile]) -> None:
    artifact, message = made("adaround", *ADAROUND, *KEEPS)
    assert message.startswith("rounded ") and message.endswith("calibrated on 1 sample of the train split")
    assert ", rounding 0." in message
    record = _record(artifact, "adaround.json")
    assert len(record["rounded"]) > 50 and all(one["learned"] <= one["nearest"] for one in record["rounded"])
    better = sum(one["learned"] < 0.9 * one["nearest"] for one in record["rounded"])
    assert better > 0.5 * len(record["rounded"])
    assert all("embed" in name for name in record["not_rounded"])
    assert all(
        "embed" in name for name in _off_grid(artifact, profile=wanted("calibration.method=adaround", *ADAROUND))
    )


@pytest.mark.parametrize(
    "word",
    [
        "calibration.iterations=1",
        pytest.param("calibration.learning_rate=0.0001", marks=pytest.mark.slow),
        pytest.param("calibration.adaround_target=float", marks=pytest.mark.slow),
    ],
)
def test_steps_and_rate_change_what_is_learned(made: Made, word: str) -> None:
    few = ("calibration.iterations=3", "calibration.learning_rate=0.2")
    usual, other = (_latent(made("adaround", *words)[0]) for words in (few, (*few, word)))
    assert any(not torch.equal(value, other[name]) for name, value in usual.items())


@pytest.mark.parametrize("method", ["brecq", pytest.param("qdrop", marks=pytest.mark.slow)])
def test_blocks_are_reconstructed_and_ranges_learned(made: Made, wanted: Callable[..., Profile], method: str) -> None:
    words = ("calibration.iterations=8", "calibration.learning_rate=0.3")
    artifact, message = made(method, *words)
    assert message.startswith("reconstructed ") and " of 16 blocks" in message
    assert ", rounding 0." in message
    record = _record(artifact, f"{method}.json")
    blocks = {one["path"]: one for one in record["blocks"]}
    # stem, backbone, neck, CAN bus, encoder layer, and 2 decoder layers with 2 branches each
    assert len(blocks) == 1 + 3 * 2 + 1 + 1 + 1 + 2 * (1 + 2) and all(
        one["learned"] <= one["nearest"] for one in blocks.values()
    )
    assert {"img_backbone.layer1.0", "img_neck", "pts_bbox_head.transformer.encoder.layers.0"} <= set(blocks)
    assert len(blocks["pts_bbox_head.transformer.decoder.layers.1"]["layers"]) == 7
    assert all("embed" in name for name in record["not_reconstructed"])
    learned = [layer for one in blocks.values() if not one["kept_as_calibrated"] for layer in one["layers"]]
    assert learned
    left = _off_grid(artifact, profile=wanted(f"calibration.method={method}", *words))
    assert not [name for name in left if any(name.startswith(f"{layer}.weight") for layer in learned)]
    plain = _latent(made("ptq")[0])
    moved = {name for name, value in _latent(artifact).items() if not torch.equal(value, plain[name])}
    assert any(name.endswith("input_quantizer.scale") for name in moved)


def test_training_starts_from_what_was_learned(made: Made, wanted: Callable[..., Profile], store: Store) -> None:
    calibration, _ = made("adaround", *ADAROUND, *KEEPS)
    words = ("calibration.method=adaround", *ADAROUND, *KEEPS, "qat.batch_size=1")
    start, messages = trained_stages(Job(wanted(*words, "qat.steps_per_stage=0"), store), stages=1)
    assert not [message for message in messages if "are not trained from" in message]
    assert start.manifest.parents["start"] == calibration.digest
    before, after = _latent(calibration), _latent(start)
    assert set(after) == set(before)
    for name, value in after.items():
        tolerance = 1e-6 if name.endswith("scale") else 0.0  # a learned range is stored as a logarithm
        torch.testing.assert_close(value, before[name], rtol=tolerance, atol=0.0)
    trained, _ = trained_stages(Job(wanted(*words, "qat.steps_per_stage=1"), store), stages=1)
    assert trained.manifest.metrics["steps"] == len(PARTS) and trained.manifest.data["parts"] == list(PARTS)
    assert any(not torch.equal(value, after[name]) for name, value in _latent(trained).items())


def test_what_is_said_of_training_changes_no_calibration(made: Made) -> None:
    (plain, _), (keeps, _) = made("ptq"), made("ptq", *KEEPS)
    assert plain.digest != keeps.digest  # the quantization section is another
    first, second = _latent(plain), _latent(keeps)
    assert set(first) == set(second) and all(torch.equal(value, second[name]) for name, value in first.items())


def test_what_stages_choose_anew_is_said(wanted: Callable[..., Profile]) -> None:
    rounded, keeps = "calibration.method=adaround", "quantization.training_observer=null"
    (said,) = left_behind(wanted(rounded, "quantization.training_rounding=nearest"))
    assert said.startswith("each stage chooses ranges and roundings anew, so those of adaround are not trained from: ")
    assert keeps in said
    assert left_behind(wanted(rounded, keeps))
    assert left_behind(wanted(rounded, keeps, "quantization.training_rounding=nearest")) == []
    assert left_behind(wanted("calibration.method=dfq")) == left_behind(wanted()) == []


def test_smoothing_goes_before_any_method(made: Made) -> None:
    artifact, message = made("ptq", "calibration.smoothing=0.5")
    begin, checked, end = message.split("; ")
    assert (begin, end) == ("smoothed 4 of 14 layer norms", "calibrated on 1 sample of the train split")
    assert checked.startswith("outputs differ by a share of their spread: smoothing ")
    record = _record(artifact, "smoothing.json")
    branches = {f"pts_bbox_head.cls_branches.{layer}.{place}" for layer in range(2) for place in (1, 4)}
    assert {one["norm"] for one in record["smoothed"]} == branches
    assert all(one["least"] < one["most"] for one in record["smoothed"])
    assert record["not_smoothed"]["pts_bbox_head.transformer.encoder.layers.0.norms.1"].startswith("add")
    both, message = made("dfq", "calibration.smoothing=0.5")
    assert message.startswith("smoothed 4 of 14 layer norms; equalised 20 pairs of layers")
    assert both.file("dfq.json").exists() and both.file("smoothing.json").exists()
    other, _ = made("ptq", "calibration.smoothing=0.9")
    assert _record(other, "smoothing.json") != record


def test_smoothed_nano_detects_the_same(wanted: Callable[..., Profile], store: Store) -> None:
    profile = wanted(model="nano")
    detector, _ = float_detector(Job(profile, store))
    split = load_split(profile.data, name="train")

    def outputs() -> list[Tensor]:
        first = Split(split.root, split.version, split.samples[:1], "")
        with torch.no_grad():
            for batch in streaming_batches(streaming_dataset(first, model=profile.model), streams=1, workers=0):
                decoded = detector({"img": batch["inputs"]["img"]}, batch["data_samples"], mode="tensor")
        return [decoded.logits_LBKC, decoded.code_LBK10]

    detector.eval()
    expected = outputs()
    example = CheckedRun(detector, Example(detector, profile=profile, split=split))
    done = smoothed(detector, example=example, run=outputs, alpha=0.5)
    assert len(done.smoothing.scales) == 6
    assert all(float(scale.max() / scale.min()) > 1.5 for scale in done.smoothing.scales.values())
    for now, want in zip(outputs(), expected, strict=True):
        torch.testing.assert_close(now, want, rtol=1e-5, atol=1e-5 * float(want.abs().max()))


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("adaround", "learn the rounding of the weights, 400 steps for each layer, so that"),
        ("brecq", "400 steps for each block, and its activation ranges"),
        ("qdrop", "half of the activations at random in float"),
    ],
)
def test_says_what_it_would_do(wanted: Callable[..., Profile], store: Store, method: str, words: str) -> None:
    chosen = f"calibration.method={method}"
    plan = calibrate.run(Job(wanted(chosen), store), dry_run=True).would_do
    assert len(plan) == 2 and "to W4A6 on 1 sample" in plan[0] and words in plan[1]
    first, *rest = calibrate.run(Job(wanted(chosen, "calibration.smoothing=0.5"), store), dry_run=True).would_do
    assert first == "move scales of layer norm channels into the linear layers that read them (alpha 0.5)"
    assert rest == plan


def test_says_where_nothing_could_be_done(tmp_path: Path) -> None:
    rounded = Rounded(Compensation({}, {"a.weight": "it did not run"}), method="adaround")
    blocks = Reconstructed(Reconstruction({}, (), {"a.weight": "it did not run"}), method="qdrop")
    assert rounded.sentence() == "rounded no weights (adaround.json says why)"
    assert blocks.sentence() == "reconstructed no blocks (qdrop.json says why)"
    rounded.write(tmp_path)
    blocks.write(tmp_path)
    assert "it did not run" in (tmp_path / "adaround.json").read_text()
    assert "it did not run" in (tmp_path / "qdrop.json").read_text()
