"""BEVDepth: what it is told of cameras, frames of vehicle and LiDAR, the past, depths, borders of scenes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from qdbev.detectors.bevdepth import BEVDepth, build_bevdepth
from qdbev.detectors.bevdepth.depth_loss import depth_bins, depth_loss
from qdbev.detectors.bevdepth.image_lift import camera_numbers
from qdbev.detectors.bevdepth.moving import moved_boxes
from qdbev.detectors.detector import Scene
from qdbev.detectors.lift import camera_frames
from qdbev.quantization import (
    WeightGrid,
    compensate_rounding,
    fold_batchnorm,
    make_plan,
    observing,
    quantize,
    set_parts,
)
from tests.detectors.bevdet.conftest import MITE, make_batch, steady
from tests.detectors.bevdet.conftest import frame as sized_frame
from tests.detectors.bevdet.test_detector import equal
from tests.detectors.conftest import ring_of_cameras
from tests.detectors.test_detector import PROMISES

SIZE = (64, 96)  # height, width: mmcv's deformable convolution wants a map of three pixels at least
SCENE = Scene(SIZE, ring_of_cameras(*SIZE))
OWN = {name: value for name, value in MITE.items() if name != "bev_channels"}
OWN |= {
    "image_px": SIZE,
    "image_channels": 4,
    "depth_width": 16,
    "depth_groups": 2,
    "neck_channels": 4,
    "depth_weight": 3.0,
}


@pytest.fixture
def make_model():
    def make(frames_back: int = 1, **changes: Any) -> BEVDepth:
        return steady(build_bevdepth(**(OWN | {"frames_back": frames_back} | changes)))  # type: ignore[return-value]

    return make


def frame(**options: Any) -> dict[str, Any]:
    return sized_frame(size=SIZE, **options)


def stream(model: BEVDepth, scene: str, indices: range) -> list[Any]:
    frames = [[frame(scene=scene, index=index, follows=index > 0)] for index in indices]
    return [model.detections(*make_batch(queue))[0][1] for queue in frames]


def pair(**changes: Any) -> list[dict[str, Any]]:
    return [frame(scene="a", index=0, follows=False), frame(scene="a", index=1, follows=True) | changes]


def test_every_promise_is_kept(make_model: Any) -> None:
    assert [name for name in PROMISES if name != "history" and not hasattr(BEVDepth, name)] == []
    assert make_model(frames_back=0).memory_part is None and make_model().memory_part == "encoder"


def test_27_numbers_of_a_camera_in_their_order() -> None:
    one = frame(scene="a", index=0, follows=False)
    one["cam2img"] = torch.tensor([[1.0, 0, 3], [0, 2, 4], [0, 0, 1]]).double().expand(6, 3, 3)
    one["image_matrix"] = torch.arange(16.0).view(4, 4).double().expand(6, 4, 4)
    one["bev_matrix"] = -torch.arange(16.0).view(4, 4).double()
    place = torch.arange(16.0).view(1, 1, 4, 4).expand(1, 6, 4, 4).double() + 100
    numbers = camera_numbers(camera_frames([one], device="cpu"), sensor2ego_BN44=place)
    assert numbers.shape == (6, 27)
    expected = [1, 2, 3, 4, 0, 1, 3, 4, 5, 7, 0, -1, -4, -5, -10, *range(100, 112)]
    assert numbers[3].tolist() == expected


@torch.no_grad()
def test_past_images_are_told_the_current_cameras(make_model: Any) -> None:
    """Their own would give other depths; official weights were trained with the current ones."""
    model, queue = make_model().eval(), pair()
    before = model(*make_batch(queue), mode="features").bev_BQC
    queue[0]["cam2img"] = queue[0]["cam2img"] * 3
    queue[0]["image_matrix"] = queue[0]["image_matrix"] * 2
    assert torch.equal(model(*make_batch(queue), mode="features").bev_BQC, before)
    queue[1]["cam2img"] = queue[1]["cam2img"] * torch.tensor([1.01, 1.01, 1.0]).double()[:, None]
    assert not torch.equal(model(*make_batch(queue), mode="features").bev_BQC, before)


@torch.no_grad()
def test_the_past_lies_where_the_vehicle_was(make_model: Any) -> None:
    model = make_model().eval()
    queue = pair(lidar2global=torch.eye(4).double())
    still = model(*make_batch(queue), mode="features").bev_BQC
    queue[1]["lidar2global"] = torch.eye(4).double() + torch.tensor([0, 0, 0, 3.0]).double() * torch.eye(4)[:, :1]
    moved = model(*make_batch(queue), mode="features").bev_BQC
    assert not torch.allclose(still, moved)
    far = torch.eye(4).double()
    far[0, 3] = 500.0
    queue[1]["lidar2global"] = far
    empty = model(*make_batch(queue), mode="features").bev_BQC
    assert empty.isfinite().all() and not torch.allclose(empty, moved)


def test_boxes_go_to_the_vehicles_frame_and_back() -> None:
    angle = -math.pi / 2 + 0.01
    pose = torch.eye(4).double()
    pose[:2, :2] = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    pose[:3, 3] = torch.tensor([0.94, 0.0, 1.84])
    boxes = torch.tensor([[1.0, 20, -1, 4, 2, 1.5, 0.3, 3, -1], [-5.0, 2, 0, 1, 1, 2, -3, 0, 0]])
    there = moved_boxes(boxes, pose_44=pose)
    assert there[0, 0] == pytest.approx(20.94, abs=0.3) and there[0, 2] == pytest.approx(0.84, abs=1e-6)
    assert float(there[0, 6]) == pytest.approx(0.3 + angle, abs=1e-6)
    back = moved_boxes(there, pose_44=pose.inverse())
    torch.testing.assert_close(back, boxes, atol=1e-5, rtol=0)
    mirror = torch.diag(torch.tensor([-2.0, 2.0, 2.0, 1.0])).double()  # the official flip along x, and a scale
    flipped = moved_boxes(boxes[:1], pose_44=mirror)[0].tolist()
    assert flipped == pytest.approx([-2, 40, -2, 8, 4, 3, math.pi - 0.3, -6, -2], abs=1e-5)


@torch.no_grad()
def test_detections_are_in_the_lidars_frame(make_model: Any) -> None:
    model = make_model(frames_back=0).eval()
    one = frame(scene="a", index=0, follows=False)
    quarter = torch.tensor([[0.0, 1, 0, 0.9], [-1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]).double()
    turned = one | {"lidar2ego": quarter, "cam2lidar": quarter.inverse() @ one["cam2lidar"]}
    plain, other = (model.detections(*make_batch([each]))[0][1] for each in (one, turned))
    assert len(plain) > 3 and len(plain) == len(other)  # the vehicle sees the same either way
    back = moved_boxes(other.bboxes_3d.tensor, pose_44=quarter)
    torch.testing.assert_close(back[:, :6], plain.bboxes_3d.tensor[:, :6], atol=1e-4, rtol=1e-4)
    assert model.boxes(model(*make_batch([one])))[0].bboxes_3d.tensor.shape[1] == 9


@torch.no_grad()
def test_streams_queues_borders_and_batches(make_model: Any) -> None:
    model = make_model().eval()
    streamed = stream(model, "a", range(3))
    for index in (1, 2):
        queue = [frame(scene="a", index=index - 1, follows=False), frame(scene="a", index=index, follows=True)]
        equal(model.detections(*make_batch(queue))[0][1], streamed[index])
    alone = stream(model, "b", range(2))
    model.history.reset()
    stream(model, "a", range(3))
    for one, other in zip(stream(model, "b", range(2)), alone, strict=True):
        equal(one, other)
    other_queue = [frame(scene="b", index=3, follows=False), frame(scene="b", index=4, follows=False)]
    both = model(*make_batch(pair(), other_queue), mode="features").bev_BQC
    for number, queue in enumerate((pair(), other_queue)):
        torch.testing.assert_close(model(*make_batch(queue), mode="features").bev_BQC[0], both[number])


def test_depths_that_the_lidar_saw() -> None:
    nearest = torch.tensor([[0.0, 1.4, 1.9, 2.0, 3.99, 4.0]])
    bins = depth_bins(nearest, first_m=2.0, step_m=1.0, depths=2)
    assert bins.tolist() == [[-1, -1, -1, 0, 1, -1]]
    depth = torch.full((1, 2, 6), 0.5).requires_grad_()
    loss = depth_loss(depth, bins_EP=bins)
    assert float(loss.detach()) == pytest.approx(2 * math.log(2))  # two bins of each labelled pixel
    loss.backward()
    assert depth.grad is not None and depth.grad[0, :, [0, 1, 2, 5]].abs().max() == 0
    assert float(depth_loss(depth, bins_EP=torch.full((1, 6), -1)).detach()) == 0


def test_depths_count_where_they_are_wanted_and_are_asked_for(make_model: Any) -> None:
    inputs, samples = make_batch(pair())
    with pytest.raises(ValueError, match=r"no depths of the LiDAR.*model\.depth\.weight=0"):
        make_model()(inputs, samples, mode="loss")
    without = make_model(depth_weight=0.0).eval()(inputs, samples, mode="loss")
    samples[0].set_metainfo({"depth_m": np.full((6, 4, 6), 4.0, dtype=np.float32)})
    losses = make_model().eval()(inputs, samples, mode="loss")
    assert set(losses) - set(without) == {"loss_depth"} and len(without) == 12
    assert all(torch.equal(losses[name], without[name]) for name in without)
    twice = make_model(depth_weight=6.0).eval()(inputs, samples, mode="loss")
    torch.testing.assert_close(twice["loss_depth"], 2 * losses["loss_depth"])


def test_only_the_current_frame_gets_gradients_and_the_stem_stays(make_model: Any) -> None:
    model = make_model(depth_weight=0.0).train()
    inputs, samples = make_batch(pair())
    inputs["img"].requires_grad_()
    sum(model(inputs, samples, mode="loss").values()).backward()
    assert inputs["img"].grad[0, 0].abs().max() == 0 and inputs["img"].grad[0, 1].abs().max() > 0
    assert model.backbone.img_backbone.layer1[0].bn1.num_batches_tracked == 2
    assert model.backbone.depth_net.bn.num_batches_tracked == 2 and model.head.trunk.bn1.num_batches_tracked == 1
    assert model.backbone.img_backbone.bn1.num_batches_tracked == 0
    assert model.backbone.img_backbone.conv1.weight.grad is None


def test_parts_plan_counts_and_constants(make_model: Any) -> None:
    model = make_model()
    plan = make_plan(model, parts=model.parts(), weight_bits=4, activation_bits=6, last_sites=model.output_layers())
    kinds = {site.path: site.kind for site in plan}
    assert kinds["backbone.depth_net.depth_conv.4"] == "deformable_conv"
    assert kinds["backbone.depth_net.depth_mlp.fc1"] == "linear"
    assert list(kinds.values()).count("transposed_conv") == 6
    assert {site.part for site in plan.quantized} == {"backbone", "neck", "encoder", "decoder"}
    with pytest.raises(RuntimeError, match=r"backbone\.voxel_size is of another grid"):
        model.load_state_dict(make_model(cell_m=1.2).state_dict())
    assert make_model().official_repeats(SCENE)["backbone.depth_net.depth_conv.4"] == 2
    assert make_model().shape_run(SCENE)().tasks[0].heat_BCHW.shape == (1, 1, 16, 16)


@torch.no_grad()
def test_the_whole_detector_is_rounded_with_compensation(make_model: Any) -> None:
    model = make_model().eval()
    batch = make_batch(pair())
    folding = fold_batchnorm(model, lambda: model(*batch, mode="features"))
    plan = make_plan(model, parts=model.parts(), weight_bits=4, activation_bits=6, last_sites=model.output_layers())
    quantize(model, plan, weights=WeightGrid(follow=False))
    transposed = {site.path for site in plan.quantized if site.kind == "transposed_conv"}
    assert len(transposed) == 6 and transposed < {conv for conv, _ in folding.pairs}
    expected = model(*batch, mode="features").bev_BQC
    with observing(model):
        model(*batch, mode="features")
    set_parts(model, plan.parts)
    nearest = model(*batch, mode="features").bev_BQC
    done = compensate_rounding(model, lambda: model(*batch, mode="features"), plan.parts)
    assert transposed < {block.layer for block in done.errors}
    assert len({block for block in done.errors if block.layer == "head.neck.deblocks.3.0"}) == 64
    set_parts(model, plan.parts)
    rounded = model(*batch, mode="features").bev_BQC
    assert (rounded - expected).square().mean() < (nearest - expected).square().mean()


# Date, value and reason of every change:
# 2026-11-30  first values, of the code whose R50 variant gave the official outputs, losses and gradients of case 1
def test_golden_numbers(make_model: Any) -> None:
    model = make_model().eval()
    inputs, samples = make_batch(pair(), objects=2)
    wave = torch.arange(inputs["img"].numel(), dtype=torch.float64) * 0.37
    samples[0].gt_instances_3d.bboxes_3d.tensor = torch.tensor(
        [[1.0, 2, -1, 4, 2, 1.5, 0.3, 1, -2], [-12.9, 5, -1, 1, 1, 1.7, 2, 0, 0]]
    )
    samples[0].gt_instances_3d.labels_3d = torch.tensor([0, 8])
    samples[0].set_metainfo({"depth_m": np.full((6, 4, 6), 4.0, dtype=np.float32)})
    losses, seen = model({"img": wave.cos().float().view_as(inputs["img"])}, samples, mode="loss_with_features")
    found = [seen.bev_BQC.abs().mean(), seen.code_LBKD[0, 0, 1000, 0], losses["loss_depth"], sum(losses.values())]
    assert [float(value.detach()) for value in found] == pytest.approx(
        [0.1773728, -0.0685253, 6.697364, 522.5361], rel=1e-3
    )
