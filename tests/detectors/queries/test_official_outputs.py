"""Detectors of object queries against outputs of the official code on regenerated weights and inputs.

With ``QDBEV_LARGE_CASES=1`` DETR3D's full images too, which take minutes.
"""

from __future__ import annotations

import json
import math
import os
import runpy
import sys
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from mmdet3d.structures import Det3DDataSample, LiDARInstance3DBoxes
from mmengine.structures import InstanceData

import profiles
from pipelines.assembly.detector import build_detector
from qdbev.detectors.images.frame_batch import FrameBatch
from qdbev.detectors.queries.decoded import Decoded
from tests.closeness import assert_close_but_few

pytestmark = pytest.mark.slow
CASE = 1
MODELS = {"detr3d_r50_half": "detr3d-r50", "detr3d_r50": "detr3d-r50", "petr_r50dcn": "petr"}
CASES = [*(["detr3d_r50"] if os.environ.get("QDBEV_LARGE_CASES") else []), "detr3d_r50_half", "petr_r50dcn"]
WITHOUT_GRADIENT = (  # in theory; what is there is rounding
    "position_encoder.2.bias",
    "adapt_pos3d.2.bias",
    "layers.0.attentions.0.attn.in_proj_weight",
)


class Run(NamedTuple):
    """The detector, what it made of the case, and what the official code did."""

    model: Any
    levels: list[torch.Tensor]
    frames: FrameBatch
    decoded: Decoded
    expected: Any


@pytest.fixture(scope="module")
def reference(shared):
    folder = str(shared / "reference")
    sys.path.insert(0, folder)  # detector_inputs imports what lies beside it
    try:
        return runpy.run_path(f"{folder}/detector_inputs.py")
    finally:
        sys.path.remove(folder)


@pytest.fixture(scope="module", params=CASES)
def run(request, shared, reference) -> Run:
    variant = request.param
    keys = json.loads((shared / "reference" / f"{variant.removesuffix('_half')}_keys.json").read_text())
    model = build_detector(profiles.load("float", model=MODELS[variant]).model)
    state = reference["fill_state_dict"](keys, CASE)
    model.load_state_dict({name: torch.as_tensor(array) for name, array in state.items()}, strict=True)
    model.eval()
    height, width = reference["IMAGE_SIZES"][variant][2:4]
    size = torch.tensor([[float(width), float(height)]])
    matrices = torch.tensor(np.stack(reference["lidar2img"](variant)))[None].float()
    frames = FrameBatch(("a",), (0,), (False,), torch.zeros(1, 18), matrices, size)
    with torch.no_grad():
        levels = model.extract_feat(torch.tensor(reference["images"](variant, CASE)))
    expected = np.load(shared / "reference" / f"{variant}_case{CASE}.npz")
    return Run(model, levels, frames, model.decoded(levels, frames=frames), expected)


def test_image_features(run):
    for number, level in enumerate(run.levels):
        width = level.shape[-1]
        step = 4 if width > 100 else 2 if width > 50 else 1
        found = level[0, :, ::32, ::step, ::step].numpy()
        np.testing.assert_allclose(found, run.expected[f"img_feat{number}"], atol=1e-3, rtol=0)


def test_first_references_and_what_cameras_see_of_them(run):
    from qdbev.detectors.detr3d import image_attention

    if "init_reference" not in run.expected:
        pytest.skip("of DETR3D alone")
    head = run.model.pts_bbox_head
    with torch.no_grad():
        position = head.query_embedding.weight[:, : head.query_embedding.weight.shape[1] // 2]
        reference = head.transformer.first_references(position)[None]
        view = image_attention.View(run.levels, run.frames, head.pc_range)
        sampled, seen = image_attention.sampled(reference, view=view)
    np.testing.assert_allclose(reference[0].numpy(), run.expected["init_reference"], atol=1e-6, rtol=0)
    assert np.array_equal(seen[0].T.numpy(), run.expected["visible"])
    samples_CKNP = sampled[0, :, :, ::32, ::4].permute(2, 3, 0, 1).numpy()
    assert_close_but_few(samples_CKNP, run.expected["sampled"], atol=1e-3, few=1e-3)


def test_heads_of_every_layer(run):
    logits, code = (tensor[:, 0].detach().numpy() for tensor in (run.decoded.logits_LBKC, run.decoded.code_LBK10))
    np.testing.assert_allclose(logits, run.expected["cls_scores"], atol=2e-3, rtol=0)
    np.testing.assert_allclose(code, run.expected["bbox_preds"], atol=2e-3, rtol=0)


def test_boxes(run):
    with torch.no_grad():
        found = run.model.boxes(run.decoded)[0]
    np.testing.assert_allclose(found.scores_3d.detach().numpy(), run.expected["scores"], atol=1e-4)
    boxes = found.bboxes_3d.tensor.detach().double().numpy()
    old = boxes[:, [0, 1, 2, 4, 3, 5, 6, 7, 8]]
    old[:, 6] = -boxes[:, 6] - math.pi / 2
    difference = old[:, None] - run.expected["boxes"][None]
    difference[..., 6] = np.remainder(difference[..., 6] + math.pi, 2 * math.pi) - math.pi
    # boxes whose scores differ by rounding alone may come in either order: each has its twin nearby, of its class
    labels = found.labels_3d.numpy()
    distance = np.abs(difference).max(-1) + 100 * (labels[:, None] != run.expected["labels"][None])
    twin = distance.argmin(1)
    assert distance.min(1).max() < 2e-3
    assert np.abs(twin - np.arange(300)).max() <= 3
    assert len(set(twin)) == len(labels)


def test_losses_and_gradients(run):
    expected = run.expected
    old = torch.tensor(expected["loss.gt_bottom_center_boxes"])
    boxes = old[:, [0, 1, 2, 4, 3, 5, 6, 7, 8]]
    boxes[:, 6] = -old[:, 6] - math.pi / 2
    sample = Det3DDataSample()
    sample.gt_instances_3d = InstanceData(
        bboxes_3d=LiDARInstance3DBoxes(boxes, box_dim=9), labels_3d=torch.tensor(expected["loss.gt_labels"])
    )
    run.model.zero_grad()
    losses = run.model.losses(run.decoded, [sample])
    assert {f"loss.{name}" for name in losses} < set(expected.files)
    for name, loss in losses.items():
        assert loss.item() == pytest.approx(float(expected[f"loss.{name}"]), rel=1e-4), name
    total = sum(losses.values())
    assert total.item() == pytest.approx(float(expected["loss.total"]), rel=1e-4)
    total.backward(retain_graph=True)
    parameters = dict(run.model.named_parameters())
    for name, norm in zip(expected["loss.grad_names"], expected["loss.grad_norms"], strict=True):
        if not str(name).endswith(WITHOUT_GRADIENT):
            assert parameters[str(name)].grad.norm().item() == pytest.approx(norm, rel=2e-3, abs=1e-6), name
