"""Two detectors of mmdet3d that share nothing with BEVFormer, and nearly nothing with each other, in the commands."""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import profiles
from pipelines.assembly.job import Job
from pipelines.assembly.quantized import load_quantized
from pipelines.assembly.samples import load_split, training_dataset
from pipelines.assembly.weights import fitted, float_detector, remarks
from pipelines.calibration.calibrated import calibrated
from pipelines.lineage.models import as_made
from pipelines.scoring.results_file import read_results
from pipelines.scoring.sensitivity import make_rows
from pipelines.store.artifacts import Store
from qdbev.data.configured.config import read_config
from qdbev.data.configured.dataset import ConfiguredDataset, join
from qdbev.detectors.features import Features
from qdbev.distillation.vgd import bev_divergence, image_divergence

EXAMPLES = Path(__file__).parents[3] / "docs" / "examples"
TWO_STAGES = ("--set", "qat.stages=2", "--set", "qat.steps_per_stage=1")
PARTS = {"fcos3d": ("backbone", "neck", "decoder"), "centerpoint": ("backbone", "neck", "encoder", "decoder")}
Call = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def settings(tiny_synthetic: Path) -> list[str]:
    return [
        f"data.source={tiny_synthetic}",
        "data.train_scenes=2",
        "data.val_scenes=1",
        "calibration.samples=1",
        "quantization.training_rounding=nearest",
        "quantization.training_observer=minmax",
        "evaluation.max_boxes=30",
        "evaluation.bootstrap_resamples=0",
        "qat.evaluate_each_stage=false",
    ]


@pytest.fixture(scope="module", autouse=True)
def configs_read_once() -> Iterator[None]:
    """A config is a program, and commands ask for what it says many times."""
    read = functools.cache(lambda path, options: read_config(path, options=json.loads(options)))
    with pytest.MonkeyPatch.context() as patch:
        kept = lambda path, *, options: copy.deepcopy(read(path, json.dumps(dict(options))))  # noqa: E731
        patch.setattr("pipelines.assembly.detector.read_config", kept)
        yield


@pytest.fixture(scope="module")
def call_on(call: Call) -> Call:
    """Run a command with --json on an example's YAML and give its document."""

    def run(command: str, model: str, *words: str, code: int = 0) -> dict[str, Any]:
        return call(command, "--model", str(EXAMPLES / f"{model}.yaml"), *words, code=code)

    return run


@pytest.mark.slow
@pytest.mark.parametrize("model", PARTS)
def test_calibrate_evaluate_sensitivity_and_qat(call_on: Call, store: Path, model: str) -> None:
    made = call_on("calibrate", model, "--profile", "w4a6")
    calibration = Store(store).open(made["artifact"]["digest"])
    assert calibration.manifest.files["model.safetensors"].bytes < calibration.manifest.metrics["trainable"] * 1.5  # type: ignore[operator]
    structure = json.loads(calibration.file("structure.json").read_text(encoding="utf-8"))
    transposed = [site["path"] for site in structure["plan"]["sites"] if site["kind"] == "transposed_conv"]
    assert transposed == (["pts_neck.deblocks.1.0"] if model == "centerpoint" else [])
    assert set(transposed) <= {conv for conv, _ in structure["pairs"]}
    assert list(structure["kept"]) == (["pts_voxel_encoder.pfn_layers.0.norm"] if model == "centerpoint" else [])
    bops: Any = calibration.manifest.metrics["gbops"]
    assert all((bops[part] > 0) == (part in PARTS[model]) for part in ("backbone", "neck", "encoder", "decoder"))

    scored = {kind: call_on("evaluate", model, "--profile", kind) for kind in ("float", "w4a6")}
    found = {kind: _results(one) for kind, one in scored.items()}
    meta = found["float"]["meta"]
    assert (meta["use_camera"], meta["use_lidar"]) == (model == "fcos3d", model == "centerpoint")
    assert all(len(entries) > 0 for one in found.values() for entries in one["results"].values())
    assert found["float"]["results"] != found["w4a6"]["results"]

    parts = Store(store).open(call_on("sensitivity", model, "--profile", "w4a6")["artifact"]["digest"])
    rows: Any = parts.manifest.metrics["rows"]
    ran, asked = (parts.manifest.metrics[name] for name in ("stages_run", "stages_without_sharing"))
    assert ran == asked  # no row takes another's boxes
    assert [row["name"] for row in rows] == ["float", *PARTS[model], "all"]
    for row, kind in ((rows[0], "float"), (rows[-1], "w4a6")):  # the same as each evaluated alone
        assert row["NDS"] == pytest.approx(scored[kind]["metrics"]["NDS"], abs=1e-9)

    training = ["--profile", "w4a6", "--stages", "2", "--set", "qat.steps_per_stage=1"]
    training += ["--set", "quantization.training_rounding=compensated"] if model == "centerpoint" else []
    last = Store(store).open(call_on("qat-progressive", model, *training)["artifact"]["digest"])
    assert last.manifest.data["parts"] == list(PARTS[model])
    assert (last.manifest.metrics["steps"], last.manifest.metrics["skipped_steps"]) == (len(PARTS[model]) // 2, 0)
    before = Store(store).open(last.manifest.parents["start"])
    first, second = (load_file(one.file("latent.safetensors")) for one in (before, last))
    assert any(not torch.equal(first[name], second[name]) for name in first if "head" in name)
    assert "model.safetensors" in last.manifest.files and "model.safetensors" not in before.manifest.files
    assert call_on("qat-progressive", model, *training)["artifact"]["digest"] == last.digest


def _results(evaluation: dict[str, Any]) -> dict[str, Any]:
    content: dict[str, Any] = read_results(
        Store(Path(evaluation["artifact"]["path"]).parent).open(evaluation["artifact"]["digest"])
    )
    return content


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--set", "model.mmdet3d.taps.image=null"], "names no taps"),
        ([], "distillation.objectives can be cwd_image, fitnet_image"),
    ],
)
def test_distillation_without_the_taps_it_needs_is_refused_before_anything_is_trained(
    call_on: Call, store: Path, words: list[str], sentence: str
) -> None:
    before = len(Store(store).list())
    refused = json.dumps(call_on("distill-vgd", "fcos3d", "--profile", "w4a6", *words, code=2))
    assert sentence in refused
    assert len(Store(store).list()) == before


def test_compress_of_a_detector_without_taps_ends_after_the_stages_and_says_so(call_on: Call) -> None:
    words = ["--profile", "w4a6", "--dry-run", "--set", "model.mmdet3d.taps.image=null"]
    plan = call_on("compress", "fcos3d", *words)["would_do"]
    assert not any("distil from" in line or "distillation," in line for line in plan)
    assert "no distillation" in plan[-1] and sum("stage" in line for line in plan) == 3
    refused = json.dumps(call_on("compress", "fcos3d", "--profile", "w4a6", "--dry-run", code=2))  # taps, but not all
    assert (
        "BEV features and a mask of which camera sees which BEV cell, which the tapped fcos3d does not give" in refused
    )
    other = [*words[:3], "--set", "distillation.objectives=[cwd_image]"]
    assert any("distil from" in line for line in call_on("compress", "fcos3d", *other)["would_do"])


@pytest.mark.slow
@pytest.mark.parametrize(("model", "objective"), [("fcos3d", "cwd_image"), ("centerpoint", "fitnet_bev")])
def test_a_tapped_detector_is_distilled_by_what_it_gives(
    call_on: Call, store: Path, model: str, objective: str
) -> None:
    words = ["--set", f"distillation.objectives=[{objective}]", "--set", "distillation.schedule.batch_size=1"]
    words += ["--set", "distillation.schedule.steps=2", "--set", "distillation.auto_steps=1"]
    done = call_on("distill-vgd", model, "--profile", "w4a6", *words, *TWO_STAGES)
    artifact = Store(store).open(done["artifact"]["digest"])
    assert float(str(artifact.manifest.metrics[f"{objective}_weight"])) > 0
    curve = json.loads(artifact.file("curve.json").read_text())
    assert curve[-1][f"{objective}_weighted"] > 0


@pytest.mark.slow
def test_compress_without_taps_runs_to_its_end(call_on: Call, store: Path) -> None:
    words = ["--profile", "w4a6", "--set", "model.mmdet3d.taps.bev=null", *TWO_STAGES]
    done = call_on("compress", "centerpoint", *words)
    assert "no distillation" in done["messages"][0] and done["messages"][-1] == "compressed"
    assert not any(name.startswith("QAT+") for name in done["metrics"])
    assert call_on("compress", "centerpoint", *words)["artifact"]["digest"] == done["artifact"]["digest"]


def test_a_tap_that_is_no_module_is_a_sentence(call_on: Call) -> None:
    refused = call_on("calibrate", "fcos3d", "--set", "model.mmdet3d.taps.image=nek", code=2)
    assert "mmdet3d.taps.image is 'nek', which is no module of FCOSMono3D; did you mean neck?" in json.dumps(refused)


@pytest.mark.parametrize("model", PARTS)
def test_a_quantized_student_learns_from_the_taps_of_its_float_self(
    settings: list[str], tmp_path: Path, model: str
) -> None:
    profile = profiles.load("w4a6", model=str(EXAMPLES / f"{model}.yaml"), overrides=settings)
    store = Store(tmp_path)
    calibration, _ = calibrated(Job(profile, store))
    student = load_quantized(calibration, profile=profile, latent=True).detector
    teacher, _ = float_detector(Job(profile, store))
    split = load_split(profile.data, name="train")
    frames = training_dataset(split, model=profile.model, data=profile.data, schedule=profile.qat)
    assert isinstance(frames, ConfiguredDataset)
    batch = join([frames[0], frames[1]])
    with torch.no_grad():
        taught, again = (teacher(**batch, mode="features") for _ in range(2))

    def difference(learned: Features, other: Features) -> torch.Tensor:
        if model == "fcos3d":
            assert learned.image is not None and other.image is not None and learned.bev_BQC is None
            assert [tuple(level.shape[:3]) for level in learned.image] == [(2, 6, 32)] * 3
            pairs = zip(learned.image, other.image, strict=True)
            return torch.stack([image_divergence(one, teacher_BNCHW=two).mean() for one, two in pairs]).sum()
        assert learned.bev_BQC is not None and other.bev_BQC is not None and learned.image is None
        assert learned.bev_BQC.shape == (2, 64 * 64, 32)
        return bev_divergence(learned.bev_BQC, teacher_BQC=other.bev_BQC).mean()

    assert difference(taught, again) == 0
    optimiser = torch.optim.Adam([one for one in student.parameters() if one.requires_grad], lr=1e-3)
    student.train()
    curve = []
    for _ in range(8):
        losses, learned = student(**batch, mode="loss_with_features")
        assert any("loss" in name for name in losses)
        apart = difference(learned, taught)
        optimiser.zero_grad()
        apart.backward()
        optimiser.step()
        curve.append(float(apart.detach()))
    assert curve[0] > 0 and curve[-1] < 0.98 * curve[0]


def test_parts_that_leave_parameters_over_are_a_sentence(call_on: Call) -> None:
    refused = call_on("calibrate", "fcos3d", "--set", "model.mmdet3d.parts.neck=[]", code=2)
    assert "parameters of FCOSMono3D are in no part, those of neck" in json.dumps(refused)


def test_a_checkpoint_of_ones_own_is_taken_by_name(settings: list[str], tmp_path: Path) -> None:
    profile = profiles.load("w4a6", model=str(EXAMPLES / "fcos3d.yaml"), overrides=settings)
    detector, artifact = float_detector(Job(profile, Store(tmp_path / "runs")))
    path = tmp_path / "own.pth"
    classes = ["car", "truck", "trailer", "bus", "construction_vehicle"]
    classes += ["bicycle", "motorcycle", "pedestrian", "traffic_cone", "barrier"]
    torch.save({"state_dict": detector.state_dict(), "meta": {"dataset_meta": {"classes": classes}}}, path)
    again, checkpoint = fitted(profile, path=path)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in detector.state_dict().items())
    assert remarks(checkpoint, profile=profile) == ()  # the config's order, though not qdbev's
    other = profiles.load("w4a6", model=str(EXAMPLES / "centerpoint.yaml"), overrides=settings)
    assert "the model's order is other" in remarks(checkpoint, profile=other)[-1]
    nano = profiles.load("w4a6", overrides=settings)
    assert as_made(artifact, profile=nano).model == profile.model


def test_the_last_layers_are_those_stated(settings: list[str], tmp_path: Path) -> None:
    from pipelines.assembly.quantized import detector_plan, with_quantizers
    from qdbev.quantization import Folding

    words = [*settings, "quantization.first_last_bits=8"]
    profile = profiles.load("w4a6", model=str(EXAMPLES / "fcos3d.yaml"), overrides=words)
    detector, _ = float_detector(Job(profile, Store(tmp_path)))
    wide = {site.path for site in detector_plan(detector, section=profile.quantization) if site.weight_bits == 8}
    heads = {f"bbox_head.conv_regs.{index}" for index in range(5)}
    assert wide == {"backbone.conv1", "bbox_head.conv_cls", "bbox_head.conv_centerness", *heads}
    rows = make_rows(with_quantizers(detector, Folding(pairs=(), unfolded={}), profile=profile), level="part")
    assert [row.name for row in rows] == ["float", "backbone", "neck", "decoder", "all"]
