"""Every quantizer of training through the real stages: trained, sealed, loaded; delays and stops, exactly resumed."""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import profiles
from pipelines.assembly.job import Job
from pipelines.assembly.quantized import Quantized, load_quantized
from pipelines.assembly.samples import Split, load_split, streaming_dataset
from pipelines.calibration.calibrated import calibrated
from pipelines.store.artifacts import Artifact, Store
from pipelines.training import stages
from pipelines.training.distillation import distil
from profiles import Profile
from qdbev.data.queues.batches import streaming_batches
from qdbev.quantization import RANGE_PARAMETERS, active_parts, quantized_layers
from tests.apart import exit_code, start_two

QUICK = [
    "data.train_scenes=3",
    "data.val_scenes=2",
    "calibration.samples=1",
    "qat.stages=1",
    "qat.steps_per_stage=[2,0,0,0]",
    "qat.batch_size=1",
    "qat.save_every=1",
    "qat.log_every=1",
    "qat.warmup_steps=0",
    "qat.ema_decay=null",
    "quantization.training_rounding=nearest",
    "quantization.training_observer=minmax",
]
PACT = ["quantization.activation_range=pact"]
LSQ = ["quantization.learned_scale=linear", "quantization.weight_range=learned", "qat.range_multiplier=1"]
LSQ_PLUS = [*LSQ, "quantization.activation_offset=learned"]
HAWQ = [
    f"quantization.{word}"
    for word in (
        "scale_rule=hawq",
        "weight_range=follow",
        "activation_range=moving",
        "activation_sign=auto",
        "training_observer=null",
    )
]
METHODS = {
    "pact": PACT,
    "pact-signed": [*PACT, "quantization.training_sign=signed", "quantization.scale_rule=hawq"],
    "lsq+": LSQ_PLUS,
    "lsq+log": ["quantization.activation_offset=learned"],
    "hawq-v3": HAWQ,
    "hawq-v3-live": [*HAWQ, "qat.batch_norm=live"],
}

SLOW = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def load(tiny_synthetic: Path) -> Callable[..., Profile]:
    """A profile of nano on the tiny data set, of few steps."""

    def profile(*words: str, model: str = "nano") -> Profile:
        settings = [f"data.source={tiny_synthetic}", *QUICK, "device=cpu", *words]
        return profiles.load("w4a6", model=model, overrides=settings)

    return profile


@pytest.fixture
def small(load: Callable[..., Profile], mite: str) -> Callable[..., Profile]:
    """The same of a very small detector, for laws that hold for any weights."""
    return lambda *words: load(*words, model=mite)


@pytest.fixture
def sealed(monkeypatch: pytest.MonkeyPatch) -> list[Quantized]:
    """The detectors as they are handed over to be sealed."""
    seen: list[Quantized] = []
    write = stages.write_quantized

    def keep(folder: Path, *, quantized: Quantized, profile: Profile) -> None:
        seen.append(quantized)
        write(folder, quantized=quantized, profile=profile)

    monkeypatch.setattr(stages, "write_quantized", keep)
    return seen


def boxes(detector: nn.Module, *, profile: Profile, split: Split) -> Iterator[Tensor]:
    """Scores and boxes of the first frames of a scene."""
    detector.eval().history.reset()  # type: ignore[union-attr, operator]
    first = Split(split.root, split.version, split.samples[:2], "")
    with torch.no_grad():
        for batch in streaming_batches(streaming_dataset(first, model=profile.model), streams=1, workers=0):
            for one in detector(batch["inputs"], batch["data_samples"], mode="predict"):
                found = one.pred_instances_3d
                yield found.scores_3d
                yield found.bboxes_3d.tensor


@pytest.mark.parametrize(
    "method",
    ["pact", "lsq+", "hawq-v3-live", pytest.param("pact-signed", marks=SLOW), pytest.param("lsq+log", marks=SLOW)],
)
def test_a_trained_model_detects_the_same_once_it_is_sealed_and_loaded(
    method: str, small: Callable[..., Profile], sealed: list[Quantized], folder: Path
) -> None:
    profile, store = small(*METHODS[method]), Store(folder)
    artifact, _ = stages.trained_stages(Job(profile, store), stages=1)
    split = load_split(profile.data, name="val")
    before = [*boxes(sealed[-1].detector, profile=profile, split=split)]
    latent = load_quantized(artifact, profile=profile, latent=True)
    for mine, theirs in zip(boxes(latent.detector, profile=profile, split=split), before, strict=True):
        assert torch.equal(mine, theirs)
    packed = load_quantized(artifact, profile=profile).detector
    layers = quantized_layers(sealed[-1].detector)
    x = torch.linspace(-4, 4, 101)
    for path, layer in quantized_layers(packed).items():
        for mine, theirs in zip(layer.quantized_weights(), layers[path].quantized_weights(), strict=True):
            assert torch.equal(mine.quantizer.integers(mine.value), theirs.quantizer.integers(theirs.value)), path
        for one, other in zip(layer.input_quantizers(), layers[path].input_quantizers(), strict=True):
            assert torch.equal(one(x), other(x)) and torch.equal(one.dequantize(one.integers(x)), one(x)), path
    scores = next(boxes(packed, profile=profile, split=split))
    assert scores.sort(descending=True).values[:5] == pytest.approx(before[0].sort(descending=True).values[:5], abs=0.1)
    state = load_file(artifact.file("latent.safetensors"))
    assert not [name for name in state if name.rpartition(".")[2] in RANGE_PARAMETERS]
    assert bool([name for name in state if name.endswith("_quantizer.offset")]) is ("lsq+" in method)


def grids(artifact: Artifact) -> dict[str, Tensor]:
    state = load_file(artifact.file("latent.safetensors"))
    return {name: value for name, value in state.items() if name.endswith(("_quantizer.scale", "_quantizer.offset"))}


@pytest.mark.parametrize(
    ("words", "other", "moved"),
    [
        (PACT, "quantization.pact_penalty=1000", "input_quantizer.scale"),
        (LSQ, "quantization.learned_scale=log", "weight_quantizer.scale"),
        (LSQ_PLUS, "quantization.learned_scale=log", "input_quantizer.offset"),
        (HAWQ, "quantization.moving_momentum=0.5", "input_quantizer.scale"),
        (PACT, "qat.freeze_ranges_after=0", "input_quantizer.scale"),
        (HAWQ, "qat.freeze_ranges_after=1", "input_quantizer.scale"),
        (LSQ, "qat.quantizer_delay=1", "weight_quantizer.scale"),
        (HAWQ, "qat.batch_norm=live", "weight_quantizer.scale"),
    ],
)
def test_each_field_changes_what_is_learned(
    words: list[str], other: str, moved: str, small: Callable[..., Profile], folder: Path
) -> None:
    made = [stages.trained_stages(Job(small(*words, *more), Store(folder)), stages=1)[0] for more in ((), (other,))]
    first, second = (grids(artifact) for artifact in made)
    assert made[0].digest != made[1].digest
    assert any(not torch.equal(first[name], second[name]) for name in first if name.endswith(moved))


@pytest.mark.parametrize("method", [PACT, LSQ_PLUS])
def test_the_range_of_the_images_stays(method: list[str], small: Callable[..., Profile], folder: Path) -> None:
    made = [
        stages.trained_stages(Job(small(*method, f"qat.steps_per_stage=[{steps},0,0,0]"), Store(folder)), stages=1)[0]
        for steps in (2, 0)
    ]
    trained, start = (grids(artifact) for artifact in made)
    inputs = {name for name in start if "input_quantizer" in name}
    stayed = {name for name in inputs if torch.equal(trained[name], start[name])}
    first = "img_backbone.conv1.input_quantizer.scale"
    assert first in stayed and inputs - stayed


def test_pacts_penalty_is_a_term_of_the_loss(small: Callable[..., Profile], folder: Path) -> None:
    artifact, _ = stages.trained_stages(Job(small(*PACT), Store(folder)), stages=1)
    rows = json.loads(artifact.file("curve.json").read_text())
    assert all(0 < row["pact_penalty"] < row["loss"] for row in rows)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["pact", "lsq+"])
def test_distillation_goes_on_with_the_quantizers_of_the_stages(
    method: str, small: Callable[..., Profile], folder: Path
) -> None:
    words = ["distillation.schedule.steps=2", "distillation.schedule.log_every=1", "distillation.auto_steps=1"]
    profile, store = small(*METHODS[method], *words), Store(folder)
    parent, _ = stages.trained_stages(Job(profile, store), stages=1)
    artifact, _ = distil(Job(profile, store), parent=parent)
    first, second = grids(parent), grids(artifact)
    inputs = [name for name in first if "input_quantizer" in name]
    assert first.keys() == second.keys() and any(not torch.equal(first[name], second[name]) for name in inputs)
    row = json.loads(artifact.file("curve.json").read_text())[-1]
    assert ("pact_penalty" in row) is (method == "pact")


class Spy:
    """What is on, and the ranges, at every step."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, dies_at: tuple[int, ...] = ()) -> None:
        self.parts: list[tuple[int, list[str]]] = []
        self.ranges: list[dict[str, Tensor]] = []
        self.to_come = list(dies_at)
        make = stages.detection_loss

        def watched(detector: nn.Module, *, job: Job) -> Any:
            loss = make(detector, job=job)

            def inner(batch: Any, step: int) -> Any:
                if self.to_come and self.to_come[0] == step:
                    raise KeyboardInterrupt(self.to_come.pop(0))
                self.parts.append((step, sorted(active_parts(detector))))
                named = detector.named_parameters()
                self.ranges.append(
                    {n: p.detach().clone() for n, p in named if n.rpartition(".")[2] in RANGE_PARAMETERS}
                )
                return loss(batch, step)

            return inner

        monkeypatch.setattr(stages, "detection_loss", watched)


def test_what_a_stage_adds_waits_and_ranges_stop(
    monkeypatch: pytest.MonkeyPatch, small: Callable[..., Profile], tmp_path: Path
) -> None:
    spy = Spy(monkeypatch)
    words = ["qat.stages=2", "qat.steps_per_stage=[4,0,4,0]", "qat.quantizer_delay=1", "qat.freeze_ranges_after=3"]
    profile = small(*PACT, *words)
    artifact, _ = stages.trained_stages(Job(profile, Store(tmp_path)), stages=2)
    early, late = ["backbone", "neck"], ["backbone", "decoder", "encoder", "neck"]
    assert spy.parts[:4] == [(0, []), (1, early), (2, early), (3, early)]
    assert spy.parts[4:] == [(0, early), (1, late), (2, late), (3, late)]
    start, waited, _, free = spy.ranges[:4]
    assert all(torch.equal(start[name], waited[name]) for name in start)  # nothing was quantized in step 0
    assert sum(not torch.equal(start[name], free[name]) for name in start) > len(start) / 2
    state = load_file(artifact.file("latent.safetensors"))
    for name, alpha in spy.ranges[7].items():  # before the step that trains none any more
        quantizer = name.removesuffix(".trained.pact_alpha")
        unsigned = state[f"{quantizer}.flags"][0] == 2
        assert torch.equal(state[f"{quantizer}.scale"], alpha / (63.5 if unsigned else 31.5)), name
    assert active_parts(load_quantized(artifact, profile=profile).detector) == set(late)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lsq+", "hawq-v3"])  # that of pact is killed below
def test_stopped_at_any_step_it_ends_the_same(
    method: str, monkeypatch: pytest.MonkeyPatch, small: Callable[..., Profile], tmp_path: Path
) -> None:
    words = ["qat.steps_per_stage=[3,0,0,0]", "qat.quantizer_delay=1", "qat.freeze_ranges_after=2", "qat.ema_decay=0.5"]
    words += ["qat.batch_norm=live", "quantization.training_observer=null"]
    profile = small(*METHODS[method], *words)
    calibrated(Job(profile, Store(tmp_path / "broken")))
    shutil.copytree(tmp_path / "broken", tmp_path / "whole")
    whole, _ = stages.trained_stages(Job(profile, Store(tmp_path / "whole")), stages=1)
    spy = Spy(monkeypatch, dies_at=(1, 2))
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            stages.trained_stages(Job(profile, Store(tmp_path / "broken")), stages=1)
    broken, messages = stages.trained_stages(Job(profile, Store(tmp_path / "broken")), stages=1)
    assert not spy.to_come and len(spy.parts) == 3, messages
    assert broken.digest == whole.digest


@pytest.mark.slow
def test_two_processes_killed_between_delay_and_stop_end_the_same(
    tiny_synthetic: Path, mite: str, tmp_path: Path
) -> None:
    words = [
        "qat.steps_per_stage=[4,0,0,0]",
        "qat.quantizer_delay=1",
        "qat.freeze_ranges_after=3",
        "qat.batch_norm=live",
    ]
    settings = [f"data.source={tiny_synthetic}", *QUICK, *PACT, *words, "qat.evaluate_each_stage=false"]
    options = [word for setting in settings for word in ("--set", setting)]
    command = ["qat-progressive", "--model", mite, "--stages", "1", "--device", "cpu", *options, "--store"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert [exit_code(one) for one in start_two([*command, str(whole)])] == [0, 0]
    pair = start_two([*command, str(broken)])
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and not list(broken.glob(".scratch/*/state-0000000[12]-*")):
        time.sleep(0.005)
    for one in pair:
        one.kill()
    assert [exit_code(one) for one in pair] == [-signal.SIGKILL] * 2, "it was over before it was killed"
    assert [exit_code(one) for one in start_two([*command, str(broken)])] == [0, 0]
    first, second = ({one.path.name: one.digest for one in Store(store).list()} for store in (whole, broken))
    assert first == second and any(name.startswith("qat") for name in first)
