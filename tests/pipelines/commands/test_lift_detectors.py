"""Small detectors that lift images through the commands: by numbers alone, with and without a past frame."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pipelines.store.artifacts import Store

Call = Callable[..., dict[str, Any]]
BEVDET = """
model:
  detector: bevdet
  weights: random
  image: {scale: 1.0, size_px: [160, 64]}
  backbone: {depth: 18, base_channels: 8}
  image_channels: 16
  lift: {depths_m: [2, 42, 4], channels: 8, rows: 32, columns: 32, cell_m: 3.2}
  ground: {channels: [16, 16, 16], neck_channels: 16}
  head: {channels: 16}
"""
BEVDEPTH = """
model:
  detector: bevdepth
  weights: random
  image: {scale: 1.0, size_px: [160, 64]}
  backbone: {depth: 18, base_channels: 8}
  image_channels: 4
  depth: {width: 16, groups: 2}
  lift: {depths_m: [2, 42, 4], channels: 8, rows: 32, columns: 32, cell_m: 3.2}
  head: {neck_channels: 4, channels: 16}
data: {queue_length: 2, drop_one_frame: false}
"""
MODELS = {
    "bevdepth": BEVDEPTH,
    "bevdet": BEVDET + "data: {queue_length: 1}\n",
    "bevdet4d": BEVDET + "  frames_back: 1\ndata: {queue_length: 2}\n",
}


@pytest.fixture(scope="module")
def settings(tiny_synthetic: Path) -> list[str]:
    return [
        f"data.source={tiny_synthetic}",
        "data.train_scenes=2",
        "data.val_scenes=1",
        "calibration.samples=1",
        "quantization.training_observer=minmax",
        "quantization.training_rounding=nearest",
        "evaluation.max_boxes=200",
        "evaluation.bootstrap_resamples=0",
        "qat.stages=2",
        "qat.steps_per_stage=1",
        "qat.batch_size=1",
        "qat.warmup_steps=0",
        "qat.evaluate_each_stage=false",
        "distillation.schedule.steps=1",
        "distillation.auto_steps=1",
        "distillation.schedule.batch_size=1",
        "distillation.schedule.warmup_steps=0",
        "distillation.schedule.photometric=false",
        "distillation.schedule.grid_mask_probability=0",
    ]


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / f"small-{request.param}.yaml"
    path.write_text(MODELS[request.param].lstrip("\n"), encoding="utf-8")
    return path


@pytest.mark.slow
def test_the_chain_of_commands(call: Call, store: Path, model: Path) -> None:
    words = ("--model", str(model), "--profile", "w8a8")
    parts = ["backbone", "neck", "encoder", "decoder"]
    calibration = Store(store).open(call("calibrate", *words)["artifact"]["digest"])
    operations: Any = calibration.manifest.metrics["gbops"]
    assert {part for part in operations if operations[part] > 0} == {*parts, "total"}
    assert call("evaluate", *words)["metrics"]["NDS"] >= 0

    last = Store(store).open(call("qat-progressive", *words)["artifact"]["digest"])
    assert (last.manifest.data["parts"], last.manifest.metrics["steps"]) == (parts, len(parts) // 2)

    packed = Store(store).open(call("export packed", str(last.path))["artifact"]["digest"])
    config = json.loads(packed.file("config.json").read_text(encoding="ascii"))
    kinds = [site["kind"] for site in config["qdbev"]["structure"]["plan"]["sites"]]
    assert (config["qdbev"]["format_version"], kinds.count("transposed_conv")) == (
        (2, 6) if "bevdepth" in model.name else (1, 0)
    )
    assert packed.manifest.files["model.safetensors"].bytes < last.manifest.metrics["trainable"] * 1.5  # type: ignore[operator]

    student = Store(store).open(call("distill-vgd", *words)["artifact"]["digest"])
    assert student.manifest.metrics["vgd_weight"] > 0  # type: ignore[operator]
    before, after = (load_file(stage.file("latent.safetensors")) for stage in (last, student))
    assert any(not torch.equal(before[name], after[name]) for name in before)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["bevdepth", "bevdet4d"], indirect=True, scope="module")
def test_parts_alone(call: Call, model: Path) -> None:
    document = call("sensitivity", "--model", str(model), "--profile", "w4a6")
    assert "of the time saved by sharing" in str(document)
