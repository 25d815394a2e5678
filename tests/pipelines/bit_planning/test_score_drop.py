"""Losses by measured NDS: what is scored, how an interrupted measurement goes on, and a plan made of them."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import profiles
from pipelines.assembly import quantized
from pipelines.assembly.job import Job
from pipelines.assembly.quantized import Quantized, detector_plan, folded, with_quantizers
from pipelines.assembly.samples import Split, load_split
from pipelines.assembly.weights import float_detector
from pipelines.bit_planning import choice, score_drop
from pipelines.bit_planning import losses as layer_losses
from pipelines.bit_planning.candidates import Choice, Measured, candidate_detectors
from pipelines.bit_planning.score_drop import FLOAT, KeptScores, score_losses, scored_split
from pipelines.calibration.observing import observe
from pipelines.scoring.prediction import predict, score_results
from pipelines.scoring.shared_run import SharedRun
from pipelines.store.artifacts import Store
from profiles import Profile
from qdbev.data.queues.calibration import calibration_samples
from qdbev.quantization import FLOAT_BITS, Plan, observing, quantize, quantized_layers, set_sites
from qdbev_cli.app import app

LAYERS = ("img_backbone.conv1", "pts_bbox_head.cls_branches.2.6", "pts_bbox_head.reg_branches.2.4")
OF_MITE = tuple(path.replace("branches.2", "branches.1") for path in LAYERS)  # its last decoder layer is the second
OUTPUT = {Choice(path, "weights", bits): 1.0 / bits for path in LAYERS for bits in (2, 8)}


@pytest.fixture(scope="module")
def settings(tiny_synthetic: Path) -> list[str]:
    words = [f"data.source={tiny_synthetic}", "data.train_scenes=3", "data.val_scenes=1", "device=cpu"]
    words += ["bit_plan.candidates=[2,8]", "bit_plan.criterion=nds", "bit_plan.scenes=1", "bit_plan.size=0.13"]
    return [*words, "calibration.samples=4", "evaluation.max_boxes=30"]


@pytest.fixture(scope="module")
def profile(settings: list[str]) -> Profile:
    return profiles.load("w4a6", overrides=settings)


@pytest.fixture(scope="module")
def split(profile: Profile) -> Split:
    return scored_split(load_split(profile.data, name="train"), profile=profile)


@pytest.fixture(scope="module")
def detectors(profile: Profile, split: Split, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Quantized]:
    """The shipped nano with three layers quantized, at two and at eight bits."""
    found, _ = float_detector(Job(profile, Store(tmp_path_factory.mktemp("runs"))))
    folding = folded(found, profile=profile, split=split)
    whole = detector_plan(found, section=profile.quantization)
    copies = {}
    for bits in (2, 8):
        widths = dict.fromkeys(LAYERS, bits)
        sites = [
            replace(site, weight_bits=widths.get(site.path, FLOAT_BITS), activation_bits=FLOAT_BITS) for site in whole
        ]
        plan = replace(whole, sites=tuple(sites))
        detector = quantize(copy.deepcopy(found), plan)
        with observing(detector):
            pass
        copies[bits] = Quantized(detector, folding, plan, ())
    return copies


def measured(detectors: dict[int, Quantized], profile: Profile, split: Split, scratch: Path) -> Measured:
    job = Job(profile, Store(scratch))
    return score_losses(detectors, output=OUTPUT, job=job, split=split, tensors=["weights"], scratch=scratch)


@pytest.fixture(scope="module")
def whole(
    detectors: dict[int, Quantized], profile: Profile, split: Split, tmp_path_factory: pytest.TempPathFactory
) -> Measured:
    return measured(detectors, profile, split, tmp_path_factory.mktemp("scratch"))


def test_every_score_is_that_of_the_network_with_this_layer_alone(
    whole: Measured, detectors: dict[int, Quantized], profile: Profile, split: Split
) -> None:
    scores = {(one["path"], one["bits"]): one["NDS"] for one in whole.notes["scores"]["layers"]}
    assert set(scores) == {(path, bits) for path in LAYERS for bits in (2, 8)}
    for path, bits in [(LAYERS[0], 2), (LAYERS[2], 2), ("", 8)]:
        detector = detectors[bits].detector
        set_sites(detector, [path] if path else [])
        expected = score_results(predict(detector, split=split, job=Job(profile, Store("nowhere"))), split=split).nds
        assert expected == (scores[path, bits] if path else whole.notes["scores"]["float"])
        set_sites(detector, ())


def test_losses_are_drops_cut_off_at_zero_and_ordered_by_the_output_error(whole: Measured) -> None:
    reference = whole.notes["scores"]["float"]
    assert reference > 0
    for one in whole.notes["scores"]["layers"]:
        choice = Choice(one["path"], "weights", one["bits"])
        tie = whole.losses[choice] - max(0.0, reference - one["NDS"])
        assert tie == pytest.approx(1e-4 * OUTPUT[choice] / (len(LAYERS) * 0.5), abs=1e-12)
    assert whole.losses[Choice(LAYERS[0], "weights", 2)] > 10 * whole.losses[Choice(LAYERS[0], "weights", 8)] > 0


def test_a_score_above_the_float_one_loses_nothing_but_the_tie(
    detectors: dict[int, Quantized], profile: Profile, split: Split, tmp_path: Path
) -> None:
    kept = KeptScores(tmp_path)
    kept.keep({choice: 0.7 if choice.bits == 8 else 0.4 for choice in OUTPUT} | {FLOAT: 0.6})
    losses = measured(detectors, profile, split, tmp_path).losses
    assert all(loss == pytest.approx(0.2 if choice.bits == 2 else 0, abs=1e-4) for choice, loss in losses.items())
    assert all(0 < loss < 1e-4 for choice, loss in losses.items() if choice.bits == 8)


def test_an_interrupted_measurement_goes_on_and_ends_the_same(
    whole: Measured,
    detectors: dict[int, Quantized],
    profile: Profile,
    split: Split,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[list[str]] = []
    after = 2

    class Watched(SharedRun):
        def run(self) -> Any:
            if len(calls) == after:
                raise KeyboardInterrupt
            calls.append([row.name for row in self.rows])
            return super().run()

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(score_drop, "SharedRun", Watched)
        measured(detectors, profile, split, tmp_path)
    done = sum(map(len, calls))
    assert len(KeptScores(tmp_path).by_choice) == done > 0
    calls.clear()
    after = 99
    monkeypatch.setattr(score_drop, "SharedRun", Watched)
    assert measured(detectors, profile, split, tmp_path) == whole
    assert sum(map(len, calls)) == len(OUTPUT) + 1 - done
    calls.clear()
    assert measured(detectors, profile, split, tmp_path) == whole and not calls


def test_scenes_are_whole_ones_of_the_train_split_in_calibrations_order(profile: Profile) -> None:
    train = load_split(profile.data, name="train")
    drawn = calibration_samples(train.samples, count=len(train.samples), seed=0)
    for count in (1, 2, 3):
        words = profile.model_copy(update={"bit_plan": profile.bit_plan.model_copy(update={"scenes": count})})
        split = scored_split(train, profile=words)
        assert set(split.scenes) == set(dict.fromkeys(one["scene"] for one in drawn[: 4 * count]))
        assert len(split.samples) == 4 * count
    words = profile.model_copy(update={"bit_plan": profile.bit_plan.model_copy(update={"scenes": 4})})
    with pytest.raises(ValueError, match=r"bit_plan\.scenes is 4, but the train split has 3; ask for 1 to 3"):
        scored_split(train, profile=words)


@pytest.fixture
def few_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit plans of three layers, so that a plan is measured in seconds."""

    def cut(detector: Any, **given: Any) -> Plan:
        plan = detector_plan(detector, **given)
        float_bits = {"weight_bits": FLOAT_BITS, "activation_bits": FLOAT_BITS}
        return replace(
            plan, sites=tuple(site if site.path in OF_MITE else replace(site, **float_bits) for site in plan)
        )

    for module in (choice, layer_losses, quantized):
        monkeypatch.setattr(module, "detector_plan", cut)


def test_an_interrupted_command_goes_on_to_a_plan_by_nds(
    few_layers: None, tiny_synthetic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mite: str
) -> None:
    rows: list[int] = []

    class Interrupted(SharedRun):
        def run(self) -> Any:
            if len(rows) == 3:
                rows.append(0)
                raise KeyboardInterrupt
            rows.append(len(self.rows))
            return super().run()

    monkeypatch.setattr(score_drop, "SharedRun", Interrupted)
    words = ["sensitivity", "--model", mite, "--plan", "--budget", "bops=0.999", "--criterion", "nds"]
    words += ["--candidates", "2,8", "--store", str(tmp_path), "--device", "cpu", "--json"]
    settings = [f"data.source={tiny_synthetic}", "data.train_scenes=3", "data.val_scenes=1", "calibration.samples=4"]
    settings += ["bit_plan.scenes=2", "bit_plan.samples=1", "bit_plan.observer=training", "evaluation.max_boxes=30"]
    words += [word for setting in settings for word in ("--set", setting)]
    stopped = CliRunner().invoke(app, [*words, "--budget", "size=0.2"])
    assert stopped.exit_code == 130 and len(list((tmp_path / ".scratch").glob("bit-plan-*/scores.json"))) == 1
    result = CliRunner().invoke(app, [*words, "--budget", "size=0.13"])  # another budget, the same measurement
    assert result.exit_code == 0, result.output
    assert sum(rows) == 4 * len(OF_MITE) + 1  # each network once, the float one too
    artifact = Store(tmp_path).open(json.loads(result.stdout)["artifact"]["digest"])
    content = json.loads(artifact.file("bit-plan.json").read_text())
    assert [one["tensors"] for one in content["scores"]["layers"]].count("inputs") == 2 * len(OF_MITE)
    assert len(content["losses"]) == len(content["scores"]["layers"]) == 4 * len(OF_MITE)
    assert content["predicted_loss"] == pytest.approx(sum(one["loss"] for one in content["layers"]))
    tokens: Any = artifact.manifest.data["calibration_tokens"]
    assert len(tokens) == 8  # those that set ranges are of the two scenes that are scored
    assert not list((tmp_path / ".scratch").iterdir())
    assert "losses are NDS" in json.loads(result.stdout)["tables"][0]["notes"][-1]


def test_scenes_that_are_evaluated_are_refused(tiny_synthetic: Path, tmp_path: Path) -> None:
    words = ["sensitivity", "--plan", "--budget", "size=0.13", "--criterion", "nds", "--store", str(tmp_path), "--json"]
    settings = [f"data.source={tiny_synthetic}", "data.train_scenes=3", "calibration.samples=4"]
    words += [word for setting in [*settings, "evaluation.split=train"] for word in ("--set", setting)]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2 and "are also evaluated" in json.loads(result.stdout)["error"]


def test_ranges_are_those_that_training_starts_from(
    settings: list[str], split: Split, tmp_path: Path, mite: str
) -> None:
    profile = profiles.load("w4a6", model=mite, overrides=[*settings, "calibration.samples=2"])
    job = Job(profile, Store(tmp_path))
    found, _ = float_detector(job)
    folding = folded(found, profile=profile, split=split)
    scales = {}
    for observer in ("calibration", "training"):
        section = profile.bit_plan.model_copy(update={"observer": observer})
        here = profile.model_copy(update={"bit_plan": section})
        ((_, copied),) = candidate_detectors(found, folding, job=job.of(here), bits=(4,), inputs=True)  # type: ignore[arg-type]
        scales[observer] = copied
    training = with_quantizers(copy.deepcopy(found), folding, profile=with_bits(profile, 4))
    observe(training, job=job, observer="mse", unsigned=True)
    expected, actual = (quantized_layers(one.detector) for one in (training, scales["training"]))
    plain = quantized_layers(scales["calibration"].detector)
    for path, layer in expected.items():
        for one, other in zip(layer.quantizers(), actual[path].quantizers(), strict=True):
            assert torch.equal(one.scale, other.scale) and one.flags.tolist() == other.flags.tolist()
    assert any(
        quantizer.flags.tolist() != other.flags.tolist()
        for path in plain
        for quantizer, other in zip(plain[path].input_quantizers(), actual[path].input_quantizers(), strict=True)
    )
    weight = next(plain[LAYERS[0]].quantized_weights()).quantizer
    assert (next(actual[LAYERS[0]].quantized_weights()).quantizer.scale <= weight.scale).all()


def with_bits(profile: Profile, bits: int) -> Profile:
    section = profile.quantization.model_copy(update={"weight_bits": bits, "activation_bits": bits})
    return profile.model_copy(update={"quantization": section})
