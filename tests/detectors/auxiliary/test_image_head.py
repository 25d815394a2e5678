"""The dense head on image features, in detectors that look at images with queries and in those that lift them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import profiles
from pipelines.assembly.detector import build_detector
from pipelines.assembly.samples import load_split, ordered_dataset, reads_lidar, training_dataset
from qdbev.detectors.lift import camera_frames, projections

MODELS = ("nano-petr", "nano-detr3d", "nano-bevdet4d", "nano-bevdepth")


def loaded(model: str, root: Path) -> tuple[Any, Any]:
    profile = profiles.load("float", model=model, overrides=[f"data.source={root}", "model.weights=random"])
    return profile, load_split(profile.data, name="val", lidar=reads_lidar(profile.model))


@pytest.mark.parametrize("model", MODELS)
def test_it_teaches_the_backbone_and_is_nothing_at_inference(model: str, tiny_synthetic: Path) -> None:
    profile, split = loaded(model, tiny_synthetic)
    detector = build_detector(profile.model, auxiliary=True)
    frames = training_dataset(split, model=profile.model, data=profile.data, schedule=profile.float_training)
    item = frames[1]
    batch = {name: value[None] for name, value in item["inputs"].items()}
    losses = detector(batch, [item["data_samples"]], mode="loss")
    named = {name for name in losses if name.startswith("auxiliary.")}
    assert named == {f"auxiliary.loss_image_{what}" for what in ("heatmap", "depth", "angle")}
    sum(losses[name] for name in named).backward()
    paths = profile.model.backbone_paths
    stirred = {name for name, value in detector.named_parameters() if value.grad is not None and value.grad.any()}
    assert any(name.startswith(paths[0]) for name in stirred)
    assert not any("head." in name and not name.startswith("auxiliary.") for name in stirred)
    plain = build_detector(profile.model)
    assert {name for name in detector.state_dict() if not name.startswith("auxiliary.")} == set(plain.state_dict())


def test_detectors_that_lift_project_as_those_that_look(tiny_synthetic: Path) -> None:
    matrices = []
    for model in ("nano-detr3d", "nano-bevdet4d"):
        profile, split = loaded(model, tiny_synthetic)
        dataset = ordered_dataset(split, model=profile.model, samples=split.samples)
        matrices.append(dataset[2]["data_samples"].metainfo["frames"][-1])
    looking, lifting = matrices
    found = projections(camera_frames([lifting], device="cpu"), image_px=(192, 352))
    point = np.array([12.0, 7.0, -0.5, 1.0])
    seen = np.asarray(looking["lidar2img"]) @ point
    twice = found.lidar2img_BN44[0].double().numpy() @ point
    ahead = seen[:, 2] > 1
    assert ahead.any()
    np.testing.assert_allclose(twice[ahead, :2] / twice[ahead, 2:3], 2 * seen[ahead, :2] / seen[ahead, 2:3], atol=2e-2)
    assert found.image_size_B2.tolist() == [[352.0, 192.0]]
    assert torch.equal(found.lidar2img_BN44[0, :, 3], torch.tensor([0.0, 0, 0, 1]).expand(6, 4))
