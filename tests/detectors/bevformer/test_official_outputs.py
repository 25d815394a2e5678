"""BEVFormer tiny against outputs of the official code on regenerated weights and inputs."""

from __future__ import annotations

import json
import math
import runpy

import numpy as np
import pytest
import torch
from mmdet3d.structures import Det3DDataSample, LiDARInstance3DBoxes
from mmengine.structures import InstanceData

from qdbev.detectors.bevformer import History, build_bevformer, frame_batch

pytestmark = pytest.mark.slow
CASE = 1


@pytest.fixture(scope="module")
def reference(shared):
    return runpy.run_path(str(shared / "reference" / "reference_inputs.py"))


@pytest.fixture(scope="module")
def expected(shared):
    return np.load(shared / "reference" / "bevformer_tiny_case1.npz")


@pytest.fixture(scope="module")
def model(shared, reference, variants):
    shapes = json.loads((shared / "reference" / "bevformer_keys_tiny.json").read_text())
    made = build_bevformer(**variants["tiny"])
    state = reference["fill_state_dict"](shapes, case=CASE)
    made.load_state_dict({name: torch.as_tensor(array) for name, array in state.items()}, strict=True)
    return made.eval()


def frame(reference, number):
    now, before = reference["can_bus"](number, CASE), reference["can_bus"](0, CASE)
    moved = [0, 1, 2, 17]
    now[moved] = now[moved] - before[moved] if number else 0
    matrices = np.stack(reference["lidar2img"](0.5))
    entry = {"scene": "a", "index_in_scene": number, "prev_exists": number > 0, "img_shape": (480, 800)}
    entry |= {"can_bus": torch.tensor(now), "lidar2img": torch.tensor(matrices)}
    return frame_batch([entry], device=torch.device("cpu"))


@pytest.fixture(scope="module")
def run(model, reference):
    """Neck features, encoder and decoder outputs of both frames."""
    results, history = [], None
    with torch.no_grad():
        for number in (0, 1):
            levels = model.extract_feat(torch.tensor(reference["images"]("tiny", number, CASE)))
            encoded = model.encode(levels, frames=frame(reference, number), history=history)
            results.append((levels, encoded, model.decode(encoded.bev_BQC)))
            history = History(encoded.bev_BQC, (True,))
    return results


@pytest.mark.parametrize("number", [0, 1])
def test_features_mask_and_heads(number, run, expected):
    levels, encoded, decoded = run[number]

    def close(found, name, atol):
        np.testing.assert_allclose(found.numpy(), expected[f"frame{number}.{name}"], atol=atol, rtol=0)

    close(levels[0][0, :, ::8], "img_feat0", 1e-3)
    mask = np.unpackbits(expected[f"frame{number}.bev_mask"])[: 6 * 2500 * 4].reshape(6, 2500, 4)
    assert np.array_equal(encoded.bev_mask_BNQD[0].numpy(), mask.astype(bool))
    close(encoded.bev_BQC[0], "bev_embed", 1e-3)
    close(decoded.logits_LBKC[:, 0], "cls_scores", 1e-3)
    close(decoded.code_LBK10[:, 0], "bbox_preds", 5e-3)


@pytest.mark.parametrize("number", [0, 1])
def test_boxes(number, run, expected, model):
    found = model.boxes(run[number][2])[0]
    scores = expected[f"frame{number}.scores"]
    np.testing.assert_allclose(found.scores_3d.numpy(), scores, atol=1e-4)
    boxes = found.bboxes_3d.tensor.double().numpy()
    old = boxes[:, [0, 1, 2, 4, 3, 5, 6, 7, 8]]
    old[:, 6] = -boxes[:, 6] - math.pi / 2
    difference = old[:, None] - expected[f"frame{number}.boxes"][None]
    difference[..., 6] = np.remainder(difference[..., 6] + math.pi, 2 * math.pi) - math.pi
    # boxes whose scores differ by rounding alone may come in either order: each has its twin nearby
    distance = np.abs(difference).max(-1)
    twin = distance.argmin(1)
    assert distance.min(1).max() < 5e-3
    assert np.abs(twin - np.arange(300)).max() <= 2
    assert np.array_equal(found.labels_3d.numpy(), expected[f"frame{number}.labels"][twin])


def test_losses_and_gradients(run, expected, model, reference):
    (_, before, _), (levels, _, _) = run
    encoded = model.encode(levels, frames=frame(reference, 1), history=History(before.bev_BQC, (True,)))
    old = torch.tensor(expected["loss.gt_bottom_center_boxes"])
    boxes = old[:, [0, 1, 2, 4, 3, 5, 6, 7, 8]]
    boxes[:, 6] = -old[:, 6] - math.pi / 2
    sample = Det3DDataSample()
    sample.gt_instances_3d = InstanceData(
        bboxes_3d=LiDARInstance3DBoxes(boxes, box_dim=9), labels_3d=torch.tensor(expected["loss.gt_labels"])
    )
    losses = model.losses(model.decode(encoded.bev_BQC), [sample])
    for name, loss in losses.items():
        assert float(loss.detach()) == pytest.approx(float(expected[f"loss.{name}"]), rel=1e-4), name
    total = sum(losses.values())
    assert float(total.detach()) == pytest.approx(float(expected["loss.total"]), rel=1e-4)
    total.backward()
    parameters = dict(model.named_parameters())
    for name, norm in zip(expected["loss.grad_names"], expected["loss.grad_norms"], strict=True):
        assert float(parameters[str(name)].grad.norm()) == pytest.approx(norm, rel=1e-3, abs=1e-6), name
