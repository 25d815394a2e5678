"""BEVDepth-R50 against outputs of the official code on regenerated weights and inputs."""

from __future__ import annotations

import json
import math
import runpy
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from mmdet3d.structures import Det3DDataSample

import profiles
from pipelines.assembly.detector import build_detector
from pipelines.costs.counts import count
from qdbev.detectors.bevdepth.depth_loss import depth_bins
from qdbev.detectors.lift import LiftDetector
from tests.closeness import assert_close_but_few
from tests.detectors.computed_once import computed_once, laid_out_by_channels

pytestmark = pytest.mark.slow
CASE, FRAMES = 1, {"bevdepth": 2}
CODE = {"reg": (0, 2), "height": (2, 3), "dim": (3, 6), "rot": (6, 8), "vel": (8, 10)}


@pytest.fixture(scope="module", params=FRAMES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def reference(shared) -> dict[str, Any]:
    return runpy.run_path(str(shared / "reference" / "detector_inputs_bev.py"))


@pytest.fixture(scope="module")
def shapes(shared, name) -> dict[str, list[int]]:
    return json.loads((shared / "reference" / f"{name}_r50_keys.json").read_text())


@pytest.fixture(scope="module")
def expected(shared, name):
    return np.load(shared / "reference" / f"{name}_r50_case1.npz")


@pytest.fixture(scope="module")
def model(name, reference, shapes):
    made = build_detector(profiles.load("float", model=name).model)
    state = reference["fill_state_dict"](shapes, CASE)
    missing = made.load_state_dict({key: torch.as_tensor(array) for key, array in state.items()}, strict=False)
    assert missing.missing_keys == [f"backbone.{key}" for key in ("voxel_size", "voxel_coord", "voxel_num", "frustum")]
    assert missing.unexpected_keys == []
    made.extract_feat = computed_once(made.extract_feat)
    laid_out_by_channels(made.backbone.depth_net.reduce_conv, made.head.trunk.conv1, made.head.shared_conv)
    return made.eval()


def batch(reference, *, augmented: bool, frames: int) -> tuple[dict, list]:
    """The current frame last; the frame of the LiDAR is the vehicle's here, as nothing of it enters."""
    intrinsics, image_matrices, cam2ego = reference["_rig"]("bevdepth", CASE, augmented)
    metas = [
        {
            "token": str(number),
            "scene": "a",
            "index_in_scene": frames - number,
            "timestamp": 500_000 * (frames - number),
            "prev_exists": number == 0,
            "cam2img": intrinsics,
            "image_matrix": image_matrices,
            "cam2lidar": cam2ego,
            "bev_matrix": reference["bev_matrix"](CASE, augmented),
            "lidar2global": reference["ego_pose"](number, CASE),
            "lidar2ego": np.eye(4),
        }
        for number in reversed(range(frames))
    ]
    images = torch.stack([torch.tensor(reference["images"](number, CASE)) for number in reversed(range(frames))])
    return {"img": images[None]}, [Det3DDataSample(metainfo={"frames": metas})]


@pytest.fixture(scope="module")
def run(model, reference, name):
    """Neck, encoder and head of a case; of the augmented one with gradients, for the losses."""

    @cache
    def made(case: str):
        inputs, samples = batch(reference, augmented=case == "aug", frames=FRAMES[name])
        with torch.set_grad_enabled(case == "aug"):
            image, encoded = model._encoded(inputs, samples)
            return image, encoded, model.decode(encoded)

    return made


def test_names_and_shapes_are_the_official_ones(model, shapes) -> None:
    assert {key: list(value.shape) for key, value in model.state_dict().items()} == shapes


def test_multiply_accumulates_and_parameters_are_the_official_ones(shared, name, model) -> None:
    stated = json.loads((shared / "reference" / "bevdet_macs_params.json").read_text())[f"{name}_r50"]
    cost = count(profiles.load("float", model=name))
    layers = {line.path: line.macs for line in cost.official if line.is_layer}
    assert layers == {path: layer["macs"] for path, layer in stated["layers"].items()}
    assert cost.trainable == stated["totals"]["trainable"]
    assert sum(value.numel() for value in model.parameters()) == stated["totals"]["params"]
    modules = dict(model.named_modules())
    for part, paths in model.parts().items():
        values = [value for path in paths for value in modules[path].parameters() if value.requires_grad]
        assert sum(value.numel() for value in values) == stated["stages"][part]["trainable"]


@pytest.mark.parametrize("case", ["aug", "test"])
def test_features_cells_maps_and_boxes(run, expected, model, case) -> None:
    image, encoded, decoded = run(case)

    def close(found, key, atol):
        assert_close_but_few(found.detach().numpy(), expected[f"{case}.{key}"], atol=atol, few=0.01 if moved else 0.0)

    np.testing.assert_allclose(
        image[:, ::16, ::2, ::2].detach().numpy(), expected[f"{case}.img_feat"][0], atol=1e-3, rtol=0
    )
    depths = encoded.lifted.depth_EDP.unflatten(-1, (16, 44))[:, :, ::4, ::4]
    np.testing.assert_allclose(depths.detach().numpy(), expected[f"{case}.depth"][0], atol=2e-5, rtol=0)
    cells = encoded.cells_BNDP[0].view(6, 112, 16, 44).numpy()
    moved = (cells != expected[f"{case}.cell0"]).sum()  # points on a border, which the order of sums moves
    assert moved <= 20
    close(encoded.bev_BCHW[0, ::16, ::4, ::4], "bev_neck", 1e-3)
    for number, maps in enumerate(decoded.tasks):
        close(maps.heat_BCHW[0, :, ::4, ::4], f"task{number}.heatmap", 1e-3)
        for part, (low, high) in CODE.items():
            close(maps.code_B10HW[0, low:high, ::4, ::4], f"task{number}.{part}", 1e-3)
    found = LiftDetector.boxes(model, decoded)[0]  # in the vehicle's frame, augmentation and all
    boxes = found.bboxes_3d.tensor.detach().double().numpy()
    boxes[:, 2] += boxes[:, 5] / 2
    difference = boxes[:, None] - expected[f"{case}.boxes"][None]
    difference[..., 6] = np.remainder(difference[..., 6] + math.pi, 2 * math.pi) - math.pi
    distance = np.abs(difference).max(-1)  # boxes whose scores differ by rounding alone may come in either order
    twin = distance.argmin(1)
    assert len(boxes) == len(expected[f"{case}.boxes"]) == len(set(twin))
    assert distance.min(1).max() < 2e-3
    assert np.array_equal(found.labels_3d.numpy(), expected[f"{case}.labels"][twin])
    assert np.abs(found.scores_3d.detach().numpy() - expected[f"{case}.scores"][twin]).max() < 1e-3


def test_losses_and_gradients(run, expected, model, reference) -> None:
    _, encoded, decoded = run("aug")
    boxes, labels = torch.tensor(expected["loss.gt_boxes"]), torch.tensor(expected["loss.gt_labels"])
    boxes[:, 2] -= boxes[:, 5] / 2
    of_head = sum(model.grid_losses(decoded, boxes=[boxes], labels=[labels]).values())
    assert float(of_head.detach()) == pytest.approx(float(expected["loss.detection"]), rel=1e-5)
    whole = reference["depth_labels"](CASE)[0].reshape(6, 16, 16, 44, 16)
    nearest = np.where(whole == 0, np.inf, whole).min((2, 4))
    sample = Det3DDataSample(metainfo={"depth_m": np.where(np.isinf(nearest), 0, nearest)})
    of_depth = model.more_losses(encoded, [sample])["loss_depth"]
    assert float(of_depth.detach()) == pytest.approx(float(expected["loss.depth"]), rel=1e-5)
    bins = depth_bins(torch.tensor(nearest).flatten(1).nan_to_num(posinf=0), first_m=2.0, step_m=0.5, depths=112)
    assert np.array_equal(bins.flatten().numpy(), expected["loss.depth_target_bin"])
    (of_head + of_depth).backward()
    parameters = dict(model.named_parameters())
    for key, norm in zip(expected["loss.grad_names"], expected["loss.grad_norms"], strict=True):
        assert float(parameters[str(key)].grad.norm()) == pytest.approx(norm, rel=5e-3, abs=1e-6), key
