"""Small detectors of object queries through the commands: by numbers alone, without a bird's-eye view."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import profiles
from pipelines.store.artifacts import Store
from pipelines.training.objectives import taught

Call = Callable[..., dict[str, Any]]
SMALL = """
  weights: random
  backbone: {depth: 50, base_channels: 8, stages: 4, out_indices: [2, 3], dcn_stages: [false, false, true, false],
             style: caffe, frozen_stages: -1, norm_frozen: false}
  channels: 16
  heads: 2
  hidden: 24
  dropout: 0.0
  decoder: {layers: 2}
  head: {queries: 12, query_init: grid}
data: {queue_length: 1}
"""
MODELS = {
    "petr": """model:
  detector: petr
  image: {height_px: 64, width_px: 160}
  augmentation: {image_scale: [0.4, 0.4], flip_probability: 0, rotation_rad: 0, world_scale: [1, 1]}
  neck: {in_channels: [128, 256]}
  position: {depths: 8}
""",
    "detr3d": """model:
  detector: detr3d
  image: {scale: 1.0, pad_divisor: 32}
  neck: {in_channels: [128, 256], outputs: 3, extra_convs: true}
""",
}
PARTS = {"petr": ["backbone", "neck", "encoder", "decoder"], "detr3d": ["backbone", "neck", "decoder"]}


@pytest.fixture(scope="module")
def settings(tiny_synthetic: Path) -> list[str]:
    return [
        f"data.source={tiny_synthetic}",
        "data.train_scenes=2",
        "data.val_scenes=1",
        "calibration.samples=1",
        "quantization.training_observer=minmax",
        "quantization.training_rounding=nearest",
        "evaluation.max_boxes=30",
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
    path.write_text(MODELS[request.param] + SMALL.lstrip("\n"), encoding="utf-8")
    return path


@pytest.mark.slow
def test_the_chain_of_commands(call: Call, store: Path, model: Path) -> None:
    parts = PARTS[model.stem.removeprefix("small-")]
    words = ("--model", str(model), "--profile", "w8a8")
    calibration = Store(store).open(call("calibrate", *words)["artifact"]["digest"])
    operations: Any = calibration.manifest.metrics["gbops"]
    assert {part for part in operations if operations[part] > 0} == {*parts, "total"}
    assert call("evaluate", *words)["metrics"]["NDS"] >= 0

    last = Store(store).open(call("qat-progressive", *words)["artifact"]["digest"])
    assert (last.manifest.data["parts"], last.manifest.metrics["steps"]) == (parts, len(parts) // 2)

    kept = ("--set", "distillation.cache_teacher=always")
    student = Store(store).open(call("distill-vgd", *words, *kept)["artifact"]["digest"])
    assert student.manifest.metrics["vgd_weight"] > 0  # type: ignore[operator]
    before, after = (load_file(one.file("latent.safetensors")) for one in (last, student))
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_the_teachers_mask_is_kept_with_its_features(model: Path) -> None:
    """It is of the teacher's boxes; BEVFormer's is of cells alone, so the student's own does."""
    assert "bev_mask_BNQD" in taught(profiles.load("w8a8", model=str(model)))
    assert "bev_mask_BNQD" not in taught(profiles.load("w8a8"))
