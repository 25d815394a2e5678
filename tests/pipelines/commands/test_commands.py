"""Every command, in order, on the tiny data set: what each seals, repeats and refuses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

import profiles
from pipelines.assembly.quantized import load_quantized
from pipelines.lineage.chain import chain_of
from pipelines.reporting.chain_tables import chain_tables
from pipelines.reporting.runs import find_run
from pipelines.scoring.results_file import read_results
from pipelines.store.artifacts import Artifact, Store
from profiles.sections.schedule import PARTS
from qdbev.quantization import quantized_layers
from qdbev_cli.app import app

Call = Callable[..., dict[str, Any]]
UNSCORED = ("--set", "qat.evaluate_each_stage=false", "--set", "quantization.training_observer=minmax")
NANO = ("--model", "nano", "--stages", "1", "--set", "qat.steps_per_stage=[1,0,0,0]", *UNSCORED)
NANO += ("--set", "distillation.schedule.steps=1")


@pytest.fixture(scope="module")
def settings(tiny_synthetic: Path) -> list[str]:
    """Overrides that make every stage last a moment."""
    return [
        f"data.source={tiny_synthetic}",
        "data.train_scenes=3",
        "data.val_scenes=2",
        "calibration.samples=2",
        "quantization.training_rounding=nearest",
        "qat.steps_per_stage=1",
        "qat.batch_size=1",
        "qat.other_multiplier=0",
        "distillation.schedule.steps=2",
        "distillation.schedule.batch_size=1",
        "distillation.auto_steps=1",
        "evaluation.bootstrap_resamples=16",
        "evaluation.max_boxes=30",
        "float_training.steps=1",
        "float_training.batch_size=2",
    ]


@pytest.fixture(scope="module", autouse=True)
def two_scenes_are_enough() -> Iterator[None]:
    """Intervals of the two scenes that there are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipelines.scoring.comparison.FEWEST_SCENES", 2)
        yield


@pytest.fixture(scope="module")
def usual_model(mite: str) -> str:
    return mite


@pytest.fixture(scope="module")
def compressed(call: Call) -> dict[str, Any]:
    return call("compress", "--profile", "w4a6", "--stages", "4")


@pytest.fixture(scope="module")
def of_nano(call: Call) -> dict[str, Any]:
    """The shipped weights, which find something, compressed in one stage."""
    return call("compress", *NANO)


@pytest.fixture(scope="module")
def profile(settings: list[str], mite: str) -> profiles.Profile:
    return profiles.load("w4a6", model=mite, overrides=settings)


def _stages(store: Path) -> dict[int, Artifact]:
    """The four stages that compress made, by number."""
    last = Store(store).last("vgd", profile="w4a6", model="mite")
    assert last is not None
    links = chain_of(last, store=Store(store))[2:6]
    return dict(enumerate((link.model for link in links), start=1))


def test_compress_seals_every_stage_in_the_papers_order(compressed: dict[str, Any], store: Path) -> None:
    last = Store(store).last("vgd", profile="w4a6", model="mite")
    assert last is not None
    links = chain_of(last, store=Store(store))
    assert [link.name for link in links] == [
        "float",
        "PTQ",
        "QAT 1/4 (+backbone)",
        "QAT 2/4 (+neck)",
        "QAT 3/4 (+encoder)",
        "QAT 4/4",
        "QAT+VGD",
    ]
    assert [link.model.manifest.data["parts"] for link in links[2:6]] == [list(PARTS[:count]) for count in (1, 2, 3, 4)]
    scored = [link.evaluation.manifest.data["model_kind"] for link in links if link.evaluation is not None]
    assert scored == [link.model.manifest.kind for link in links]
    assert last.manifest.metrics["vgd_weight"] > 0  # type: ignore[operator]
    assert set(compressed["metrics"]["QAT+VGD"]) >= {"NDS", "mAP", "NDS_low", "NDS_high", "bops", "file_bytes"}


def test_compress_again_finds_everything_and_changes_nothing(
    compressed: dict[str, Any], call: Call, store: Path
) -> None:
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*") if path.is_file()}
    again = call("compress", "--profile", "w4a6", "--stages", "4")
    assert again["artifact"] == compressed["artifact"]
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*") if path.is_file()} == before


def test_another_evaluation_does_not_change_what_compress_says(of_nano: dict[str, Any], call: Call) -> None:
    words = (*NANO[:2], "--set", "qat.stages=1", *NANO[4:])
    other = call("evaluate", *words, "--set", "data.val_scenes=1")
    assert 0 < other["metrics"]["NDS"] != of_nano["metrics"]["QAT+VGD"]["NDS"]
    again = call("compress", *NANO)
    assert again["metrics"] == of_nano["metrics"]
    assert call("report", *words)["metrics"] == of_nano["metrics"]


def test_controls_stand_beside_the_claim(
    compressed: dict[str, Any], call: Call, profile: profiles.Profile, store: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "runs"
    shutil.copytree(store, copy)
    words = ("--profile", "w4a6", "--stages", "4")
    longer = call("distill-vgd", "--profile", "w4a6", "--control", at=copy)
    assert longer["artifact"]["kind"] == "qat-longer"
    assert call("report", "--profile", "w4a6", at=copy)["metrics"] == compressed["metrics"]  # not scored: not shown
    held = call("compress", *words, "--controls", at=copy)
    further = call("train-float", "--continue", "--profile", "w4a6", at=copy)
    assert further["messages"][0] == "already trained; --force trains again"
    assert list(held["metrics"])[-3:] == ["float longer", "QAT longer", "QAT+VGD"]
    assert held["metrics"]["float longer"]["artifact"] == further["artifact"]["digest"]
    assert held["metrics"]["QAT longer"]["artifact"] == longer["artifact"]["digest"]
    described = find_run(profile, store=Store(copy))
    assert described is not None
    tables = chain_tables(described.links, intervals=described.intervals)
    [against] = [table for table in tables if table.title == "Against controls"]
    assert [(row["name"], row["than"]) for row in against.rows] == [
        ("QAT+VGD", "float longer"),
        ("QAT+VGD", "QAT longer"),
    ]
    assert all(row["NDS_low"] <= row["NDS_change"] <= row["NDS_high"] for row in against.rows)
    again = call("compress", *words, at=copy)  # scored by now, so shown, though without intervals to the end
    assert again["artifact"]["digest"] == compressed["artifact"]["digest"]
    assert list(again["metrics"]) == list(held["metrics"])


def test_a_deleted_stage_is_made_again(compressed: dict[str, Any], call: Call, store: Path, tmp_path: Path) -> None:
    copy = tmp_path / "runs"
    shutil.copytree(store, copy)
    second = next(one for one in Store(copy).list() if one.manifest.data.get("stage") == 2)
    shutil.rmtree(second.path)
    again = call("compress", "--profile", "w4a6", "--stages", "4", at=copy)
    assert again["artifact"]["digest"] == compressed["artifact"]["digest"]
    assert Store(copy).open(second.digest).manifest.key == second.manifest.key


def test_the_model_section_is_in_every_key(call: Call, store: Path) -> None:
    made = [call("calibrate", "--profile", "w8a8", "--set", f"model.bev.rotation_nearest={flag}") for flag in (0, 1)]
    assert made[0]["artifact"]["digest"] != made[1]["artifact"]["digest"]
    scored = [call("evaluate", "--profile", "float", "--set", f"model.bev.rotation_nearest={flag}") for flag in (0, 1)]
    one, other = (read_results(Store(store).open(each["artifact"]["digest"]))["results"] for each in scored)
    assert one.keys() == other.keys() and one != other


def test_an_artifact_is_evaluated_as_it_was_made(call: Call) -> None:
    words = ("--profile", "w8a8", "--set", "quantization.scale_rule=hawq")
    made = call("calibrate", *words)
    evaluated = call("evaluate", "--profile", "w4a6", made["artifact"]["path"])
    assert evaluated["artifact"] == call("evaluate", *words)["artifact"]


def test_the_average_of_weights_is_what_qat_seals(call: Call, store: Path) -> None:
    arguments = (
        "qat-progressive",
        *UNSCORED,
        "--profile",
        "w4a6",
        "--stages",
        "1",
        "--set",
        "qat.steps_per_stage=[1,0,0,0]",
    )
    last, average = (call(*arguments, "--set", f"qat.ema_decay={decay}") for decay in ("null", "0.9"))
    first, second = (
        load_file(Store(store).open(one["artifact"]["digest"]).file("latent.safetensors")) for one in (last, average)
    )
    weight = "img_backbone.layer1.0.conv2.weight"
    assert not torch.equal(first[weight], second[weight])


def test_single_commands_find_what_compress_sealed(compressed: dict[str, Any], call: Call, store: Path) -> None:
    known = {artifact.digest for artifact in Store(store).list()}
    for command in ("calibrate", "qat-progressive", "distill-vgd", "evaluate"):
        assert call(command, "--profile", "w4a6")["artifact"]["digest"] in known, command


def test_earlier_stages_leave_later_parts_in_float(
    compressed: dict[str, Any], profile: profiles.Profile, store: Path
) -> None:
    stages = [artifact for artifact in Store(store).list() if artifact.manifest.kind == "qat"]
    second = next(artifact for artifact in stages if artifact.manifest.data["stage"] == 2)
    layers = quantized_layers(load_quantized(second, profile=profile).detector).values()
    states = {part: {q.state for one in layers if one.site.part == part for q in one.quantizers()} for part in PARTS}
    assert states == {"backbone": {"on"}, "neck": {"on"}, "encoder": {"off"}, "decoder": {"off"}}
    assert "model.safetensors" not in second.manifest.files  # nothing to deploy while parts are float


def test_the_packed_model_is_the_trained_one(of_nano: dict[str, Any], settings: list[str], store: Path) -> None:
    artifact = Store(store).open(of_nano["metrics"]["QAT+VGD"]["artifact"])
    profile = profiles.load("w4a6", overrides=settings)
    packed = load_quantized(artifact, profile=profile).detector
    latent = load_quantized(artifact, profile=profile, latent=True).detector
    for (path, one), other in zip(quantized_layers(packed).items(), quantized_layers(latent).values(), strict=True):
        for mine, theirs in zip(one.quantized_weights(), other.quantized_weights(), strict=True):
            assert torch.equal(mine.quantizer.integers(mine.value), theirs.quantizer.integers(theirs.value)), path
    assert artifact.manifest.files["model.safetensors"].bytes < artifact.manifest.files["latent.safetensors"].bytes / 5


def test_stages_train_and_start_from_the_stage_before(compressed: dict[str, Any], store: Path) -> None:
    by_stage = _stages(store)
    first, second = (load_file(by_stage[number].file("latent.safetensors")) for number in (1, 2))
    assert by_stage[2].manifest.parents["start"] == by_stage[1].digest
    changed = [name for name in first if not torch.equal(first[name], second[name])]
    assert changed and all(name.startswith("img_neck") for name in changed)  # nano freezes what a stage does not add


def test_other_parts_train_along_where_wanted(call: Call, store: Path) -> None:
    made = call("qat-progressive", *UNSCORED, "--stages", "2", "--set", "qat.other_multiplier=0.5")
    last = Store(store).open(made["artifact"]["digest"])
    before = Store(store).open(last.manifest.parents["start"])
    first, second = (load_file(artifact.file("latent.safetensors")) for artifact in (before, last))
    changed = {name.split(".")[0] for name in first if not torch.equal(first[name], second[name])}
    assert changed == {"img_backbone", "img_neck", "pts_bbox_head"}


def test_standard_qat_is_one_stage_of_as_many_steps(compressed: dict[str, Any], call: Call, store: Path) -> None:
    made = call("qat-progressive", *UNSCORED, "--profile", "w4a6", "--stages", "1")
    standard = Store(store).open(made["artifact"]["digest"])
    assert standard.manifest.data["parts"] == list(PARTS)
    assert standard.manifest.metrics["steps"] == 4


def test_ranges_are_chosen_and_learned_in_their_stage_and_artifacts_hold_scales_alone(
    compressed: dict[str, Any], store: Path
) -> None:
    states = {number: load_file(one.file("latent.safetensors")) for number, one in _stages(store).items()}
    assert not [name for state in states.values() for name in state if "log_scale" in name]
    for name in ("img_neck.fpn_convs.0.conv.weight_quantizer.scale", "img_neck.fpn_convs.0.conv.input_quantizer.scale"):
        calibrated, added, later = (states[number][name] for number in (1, 2, 3))
        assert not torch.equal(calibrated, added) and torch.equal(added, later), name


def test_learned_ranges_move_from_where_they_were_chosen(call: Call, store: Path) -> None:
    scales = {}
    for word in ("learned", "frozen"):
        words = [f"quantization.{side}_range={word}" for side in ("weight", "activation")]
        words += ["qat.steps_per_stage=[1,0,0,0]"]
        made = call("qat-progressive", *UNSCORED, "--stages", "1", *(one for each in words for one in ("--set", each)))
        state = load_file(Store(store).open(made["artifact"]["digest"]).file("latent.safetensors"))
        scales[word] = {name: value for name, value in state.items() if name.endswith("_quantizer.scale")}
    moved = [name for name, scale in scales["frozen"].items() if not torch.equal(scale, scales["learned"][name])]
    assert any("weight_quantizer" in name for name in moved) and any("input_quantizer" in name for name in moved)


def test_min_max_ranges_that_follow_the_weights(call: Call, store: Path) -> None:
    words = [
        f"quantization.{word}"
        for word in (
            "training_observer=null",
            "training_rounding=nearest",
            "weight_range=follow",
            "activation_range=frozen",
        )
    ]
    made = call("qat-progressive", *UNSCORED, "--stages", "1", *(one for word in words for one in ("--set", word)))
    artifact = Store(store).open(made["artifact"]["digest"])
    state = load_file(artifact.file("latent.safetensors"))
    start = load_file(Store(store).open(artifact.manifest.parents["start"]).file("latent.safetensors"))
    weight = "img_neck.fpn_convs.0.conv.weight"
    largest = state[weight].abs().flatten(1).amax(1)
    assert torch.allclose(state[f"{weight}_quantizer.scale"], largest / 7.5)
    inputs = "img_neck.fpn_convs.0.conv.input_quantizer.scale"
    assert torch.equal(state[inputs], start[inputs]) and not torch.equal(state[weight], start[weight])


def test_sensitivity_measures_parts_and_saves_work(call: Call) -> None:
    made = call("sensitivity", *NANO[:2], "--bits", "w2a2")
    rows = made["metrics"]["rows"]
    assert [row["name"] for row in rows] == ["float", *PARTS, "all"]
    assert len({json.dumps(row["NDS"]) + json.dumps(row["mATE"]) for row in rows}) > 1
    manifest = json.loads((Path(made["artifact"]["path"]) / "manifest.json").read_text())
    # six rows of four stages; rows share a stage where all before it and itself are the same: "all" has backbone's
    assert manifest["metrics"]["stages_without_sharing"] == 6 * 4 * 4
    assert manifest["metrics"]["stages_run"] == 4 * (2 + 4 + 5 + 6)


def test_float_row_of_sensitivity_equals_evaluate(of_nano: dict[str, Any], call: Call) -> None:
    rows = call("sensitivity", *NANO[:2], "--bits", "w2a2")["metrics"]["rows"]
    assert rows[0]["NDS"] > 0 and rows[0]["NDS"] == pytest.approx(of_nano["metrics"]["float"]["NDS"], abs=1e-6)


def test_train_float_drops_the_auxiliary_heads(call: Call) -> None:
    words = ("train-float", "--set", "float_training.auxiliary=true")
    made = call(*words)
    state = load_file(Path(made["artifact"]["path"]) / "model.safetensors")
    assert state and not [name for name in state if name.startswith("auxiliary")]
    assert call(*words)["artifact"] == made["artifact"]


@pytest.mark.parametrize("form", ["table", "md", "csv", "json", "html"])
def test_report_in_every_form(compressed: dict[str, Any], call: Call, form: str, tmp_path: Path) -> None:
    made = call("report", "--profile", "w4a6", "--format", form, "--out", str(tmp_path))
    in_float = 30 * 16 * 3  # multiplications of the layer that gives 30 queries of 16 channels their x, y, z
    assert made["metrics"]["PTQ"]["bops"]["total"] == pytest.approx(
        (made["metrics"]["float"]["bops"]["total"] * 24 + in_float * (1024 - 24) * 1024) / 1024
    )
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "report.html").exists() == (form == "html")


def test_calibration_on_evaluated_samples_is_refused(call: Call) -> None:
    refused = call("calibrate", "--profile", "w8a8", "--set", "evaluation.split=train", code=2)
    assert "also evaluated" in json.dumps(refused)


def _off_grid(artifact: Any, *, profile: profiles.Profile) -> dict[str, float]:
    """Largest distance of the float weights behind each quantizer from their grid, in steps; zeros are on every one."""
    layers = quantized_layers(load_quantized(artifact, profile=profile, latent=True).detector)
    distances = {}
    for path, layer in layers.items():
        for weight in layer.quantized_weights():
            steps = weight.value.detach() / weight.quantizer.scale.view(-1, *[1] * (weight.value.ndim - 1))
            if weight.value.any():
                distances[f"{path}.{weight.name}"] = float((steps - steps.round()).abs().max())
    return distances


def test_gptq_leaves_weights_on_their_grid_and_says_what_it_changed(call: Call, store: Path, mite: str) -> None:
    assert "changes least" in str(call("calibrate", "--profile", "w4a6", "--method", "gptq", "--dry-run")["would_do"])
    made = call("calibrate", "--profile", "w4a6", "--method", "gptq")
    artifact = Store(store).open(made["artifact"]["digest"])
    distances = _off_grid(artifact, profile=profiles.load("w4a6", model=mite, overrides=["calibration.method=gptq"]))
    assert max(distance for name, distance in distances.items() if "embed" not in name) < 1e-3
    record = json.loads(artifact.file("gptq.json").read_text())
    assert len(record["rounded"]) > 50 and all(one["compensated"] <= one["nearest"] for one in record["rounded"])
    assert {name for name in record["not_rounded"] if "embed" not in name} == set()


def test_the_part_a_stage_adds_can_start_from_compensated_weights(call: Call, store: Path, mite: str) -> None:
    words = ["quantization.training_rounding=compensated", "quantization.training_observer=mse"]
    words += ["qat.steps_per_stage=0"]
    made = call("qat-progressive", *UNSCORED, "--stages", "2", *(one for word in words for one in ("--set", word)))
    assert sum("outputs differ by a share of their spread: rounding 0." in said for said in made["messages"]) == 2
    last = Store(store).open(made["artifact"]["digest"])
    first = Store(store).open(last.manifest.parents["start"])
    profile = profiles.load("w4a6", model=mite, overrides=words)
    for artifact, parts in ((first, PARTS[:1]), (last, PARTS)):
        distances = _off_grid(artifact, profile=profile)
        on_grid = {name.split(".")[0] for name, distance in distances.items() if distance < 1e-3}
        assert ("img_backbone" in on_grid) and ("pts_bbox_head" in on_grid) == (parts == PARTS)


@pytest.mark.parametrize("sign", ["signed", "auto"])
def test_inputs_that_are_never_negative_lose_their_sign_where_wanted(
    call: Call, store: Path, mite: str, sign: str
) -> None:
    words = [f"quantization.training_sign={sign}", "quantization.training_rounding=nearest", "qat.steps_per_stage=0"]
    made = call("qat-progressive", *UNSCORED, "--stages", "1", *(one for word in words for one in ("--set", word)))
    artifact = Store(store).open(made["artifact"]["digest"])
    detector = load_quantized(artifact, profile=profiles.load("w4a6", model=mite, overrides=words)).detector
    layers = quantized_layers(detector)
    unsigned = {path for path, layer in layers.items() if any(quantizer.unsigned for quantizer in layer.quantizers())}
    after_relu = {"img_backbone.layer1.0.conv2", "pts_bbox_head.reg_branches.0.4"}
    assert unsigned >= after_relu if sign == "auto" else not unsigned
    assert "img_backbone.conv1" not in unsigned


def test_dfq_says_what_it_would_do(call: Call) -> None:
    plan = call("calibrate", "--profile", "w4a6", "--method", "dfq", "--dry-run")["would_do"]
    assert len(plan) == 3
    for step, words in zip(plan, ("equalise the ranges", "to W4A6 on 2 samples", "without data"), strict=True):
        assert words in step
    empirical = ["--set", "calibration.bias_correction=empirical"]
    assert "running 2 samples once for each" in str(call("calibrate", "--method", "dfq", "--dry-run", *empirical))
    assert len(call("calibrate", "--profile", "w4a6", "--dry-run")["would_do"]) == 1


def test_dfq_changes_the_latent_weights(of_nano: dict[str, Any], call: Call, store: Path) -> None:
    words = [*NANO[:2], *UNSCORED, "--method", "dfq"]
    made = call("calibrate", *words)
    assert "equalised 28 pairs of layers" in made["messages"][0]
    plain = call("calibrate", *NANO[:2], *UNSCORED)
    uncorrected = call("calibrate", *words, "--set", "calibration.bias_correction=none")
    ids = {outcome["artifact"]["digest"] for outcome in (made, plain, uncorrected)}
    assert plain["artifact"]["digest"] == of_nano["metrics"]["PTQ"]["artifact"]
    assert len(ids) == 3 and call("calibrate", *words)["artifact"]["digest"] == made["artifact"]["digest"]
    profile = profiles.load("w4a6", overrides=["calibration.method=dfq"])
    states = []
    for outcome in (made, plain, uncorrected):
        artifact = Store(store).open(outcome["artifact"]["digest"])
        states.append(load_quantized(artifact, profile=profile, latent=True).detector.state_dict())
    conv, bias = "img_backbone.layer1.0.conv1.weight", "img_backbone.layer1.0.conv2.bias"
    assert not torch.equal(states[0][conv], states[1][conv]) and torch.equal(states[0][conv], states[2][conv])
    assert not torch.equal(states[0][bias], states[2][bias]) and torch.equal(states[1][bias], states[2][bias])
    record = json.loads((Store(store).open(made["artifact"]["digest"]).file("dfq.json")).read_text())
    largest = (states[0][bias] - states[2][bias]).abs().max().item()
    assert record["corrected"][bias.replace("bias", "weight")] == pytest.approx(largest, rel=1e-4)
    assert record["not_equalised"]["img_backbone.conv1"].startswith("add_ reads its output")


def test_training_starts_from_the_weights_that_dfq_leaves(call: Call, store: Path) -> None:
    start = call("calibrate", *UNSCORED, "--method", "dfq")["artifact"]["digest"]
    words = ("--set", "calibration.method=dfq", "--set", "qat.steps_per_stage=0")
    trained = call("qat-progressive", *UNSCORED, "--stages", "1", *words)["artifact"]
    assert Store(store).open(trained["digest"]).manifest.parents["start"] == start


def test_missing_weights_name_the_file_and_where_it_goes(tiny_synthetic: Path, tmp_path: Path) -> None:
    words = ["sensitivity", "--model", "tiny", "--set", f"data.source={tiny_synthetic}", "--store", str(tmp_path)]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 3
    for word in ("bevformer_tiny_epoch_24.pth", "fundamentalvision/BEVFormer", "weights", "--model nano"):
        assert word in result.output
