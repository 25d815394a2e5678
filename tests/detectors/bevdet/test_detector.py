"""BEVDet and BEVDet4D: streams, queues, borders of scenes, modes, gradients, golden numbers of a small one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from mmengine.structures import InstanceData

from qdbev.detectors.bevdet import BEVDet
from qdbev.detectors.detector import Scene
from qdbev.quantization import count_macs, make_plan
from tests.detectors.bevdet.conftest import SIZE, frame, make_batch
from tests.detectors.conftest import ring_of_cameras
from tests.detectors.test_detector import PROMISES

SCENE = Scene(SIZE, ring_of_cameras(*SIZE))


def equal(one: InstanceData, other: InstanceData, *, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(one.scores_3d, other.scores_3d, atol=tolerance, rtol=0)
    torch.testing.assert_close(one.bboxes_3d.tensor, other.bboxes_3d.tensor, atol=20 * tolerance, rtol=tolerance)
    assert one.labels_3d.tolist() == other.labels_3d.tolist()


def stream(model: BEVDet, scene: str, indices: range) -> list[InstanceData]:
    frames = [[frame(scene=scene, index=index, follows=index > 0)] for index in indices]
    return [model.detections(*make_batch(queue))[0][1] for queue in frames]


def test_every_promise_is_kept() -> None:
    assert [name for name in PROMISES if name != "history" and not hasattr(BEVDet, name)] == []


def test_a_detector_without_a_past_sees_every_frame_alone(make_bevdet: Any) -> None:
    model = make_bevdet(frames_back=0).eval()
    assert model.memory_part is None and not hasattr(model, "pre_process_net")
    inputs, samples = make_batch([frame(scene="a", index=0, follows=False), frame(scene="a", index=1, follows=True)])
    alone = make_batch([frame(scene="a", index=1, follows=False)])
    equal(model.detections(inputs, samples)[0][1], model.detections(*alone)[0][1])


@torch.no_grad()
def test_a_queue_brings_what_a_stream_remembers(make_bevdet: Any) -> None:
    """The past lies ``frames_back`` frames back; the first frames of a scene take the oldest that there is."""
    model = make_bevdet(frames_back=2).eval()
    streamed = stream(model, "a", range(4))
    for index, past in ((1, 0), (2, 0), (3, 1)):
        pair = [frame(scene="a", index=past, follows=False), frame(scene="a", index=index, follows=True)]
        equal(model.detections(*make_batch(pair))[0][1], streamed[index])
    one_back = [frame(scene="a", index=2, follows=False), frame(scene="a", index=3, follows=True)]
    other = model.detections(*make_batch(one_back))[0][1]
    assert len(other) != len(streamed[3]) or not torch.equal(other.scores_3d, streamed[3].scores_3d)


@torch.no_grad()
def test_scenes_do_not_see_each_other_and_a_gap_starts_anew(make_bevdet: Any) -> None:
    model = make_bevdet(frames_back=2).eval()
    alone = stream(model, "b", range(2))
    model.history.reset()
    stream(model, "a", range(3))
    for one, other in zip(stream(model, "b", range(2)), alone, strict=True):
        equal(one, other)
    first = model.detections(*make_batch([frame(scene="c", index=5, follows=False)]))[0][1]
    stream(model, "c", range(3))
    equal(model.detections(*make_batch([frame(scene="c", index=5, follows=True)]))[0][1], first)
    with pytest.raises(ValueError, match="one frame per scene"):
        model.detections(*make_batch(*[[frame(scene="a", index=0, follows=False)]] * 2))


@torch.no_grad()
def test_a_stream_that_was_stopped_goes_on_alike(make_bevdet: Any) -> None:
    model = make_bevdet(frames_back=2).eval()
    whole = stream(model, "a", range(4))
    model.history.reset()
    stream(model, "b", range(2))
    stream(model, "a", range(3))
    kept = model.history.last_scene()
    model.history.reset()
    model.history.take_up(kept)
    (last,) = stream(model, "a", range(3, 4))
    assert torch.equal(last.bboxes_3d.tensor, whole[3].bboxes_3d.tensor)


@torch.no_grad()
def test_a_first_frame_is_its_own_past_whatever_its_queue_holds(make_bevdet: Any) -> None:
    model = make_bevdet(frames_back=2).eval()
    single = model.detections(*make_batch([frame(scene="a", index=1, follows=False)]))[0][1]
    border = [frame(scene="b", index=0, follows=False), frame(scene="a", index=1, follows=False)]
    equal(model.detections(*make_batch(border))[0][1], single)


@torch.no_grad()
@pytest.mark.parametrize("frames_back", [0, 2])
def test_two_samples_are_two_single_ones(make_bevdet: Any, frames_back: int) -> None:
    model = make_bevdet(frames_back=frames_back).eval()
    queues = [
        [frame(scene="a", index=0, follows=False), frame(scene="a", index=2, follows=True)],
        [frame(scene="b", index=3, follows=False), frame(scene="b", index=4, follows=False)],
    ]
    both = model(*make_batch(*queues), mode="features_with_outputs")
    for number, queue in enumerate(queues):
        alone = model(*make_batch(queue), mode="features_with_outputs")
        torch.testing.assert_close(alone.bev_BQC[0], both.bev_BQC[number], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(alone.code_LBKD[:, 0], both.code_LBKD[:, number], atol=1e-5, rtol=1e-5)
        assert torch.equal(alone.bev_mask_BNQD[0], both.bev_mask_BNQD[number])


@torch.no_grad()
def test_a_stream_part_by_part_is_the_detectors_own(make_bevdet: Any) -> None:
    model = make_bevdet(frames_back=2).eval()
    history = model.new_history(scenes=2)
    for index in range(4):
        queues = [[frame(scene=scene, index=index, follows=index > 0)] for scene in "ab"]
        stages = model.stages(*make_batch(*queues), history=history)
        assert list(stages.steps) == list(model.parts()) and stages.memory_part == "encoder"
        value = stages.first
        for step in stages.streamed().values():
            value = step(value)
        own = model.detections(*make_batch(*queues))
        assert [token for token, _ in value] == [token for token, _ in own] == [f"a-{index}", f"b-{index}"]
        for (_, one), (_, other) in zip(value, own, strict=True):
            assert torch.equal(one.bboxes_3d.tensor, other.bboxes_3d.tensor)


def test_features_and_outputs(make_bevdet: Any) -> None:
    model = make_bevdet().eval()
    queue = [frame(scene="a", index=0, follows=False), frame(scene="a", index=1, follows=True)]
    inputs, samples = make_batch(queue)
    losses, seen = model(inputs, samples, mode="loss_with_features")
    assert set(losses) == set(model(inputs, samples, mode="loss")) and len(losses) == 36
    taught = model(inputs, samples, mode="features_with_outputs")
    (image,) = taught.image
    assert image.shape == (1, 6, 16, 2, 4) and taught.bev_BQC.shape == (1, 256, 8)
    assert taught.bev_mask_BNQD.shape == (1, 6, 256, 1) and taught.bev_mask_BNQD.any(2).all()
    assert taught.logits_LBKC.shape == (1, 1, 6 * 256, 10) and taught.code_LBKD.shape == (1, 1, 6 * 256, 10)
    torch.testing.assert_close(taught.code_LBKD, seen.code_LBKD)
    assert model(inputs, samples, mode="features").logits_LBKC is None
    assert len(model(inputs, samples).tasks) == 6
    sizes = model.feature_sizes(SCENE)
    fields = {
        "image": image,
        "bev_BQC": taught.bev_BQC,
        "logits_LBKC": taught.logits_LBKC,
        "code_LBKD": taught.code_LBKD,
    }
    assert sizes == {name: tensor.numel() for name, tensor in fields.items()}
    with pytest.raises(ValueError, match="mode is 'train'"):
        model(inputs, samples, mode="train")


def test_a_camera_sees_the_cells_in_front_of_it(make_bevdet: Any) -> None:
    seen = make_bevdet().eval()(*make_batch([frame(scene="a", index=0, follows=False)]), mode="features").bev_mask_BNQD
    ahead = seen[0, 0, :, 0].view(16, 16)  # camera 0 looks along y
    assert ahead[12:, 7:9].any() and not ahead[:7].any()
    behind = seen[0, 3, :, 0].view(16, 16)
    assert behind[:4, 7:9].any() and not behind[9:].any()


def test_only_the_current_frame_gets_gradients_and_norms_see_both(make_bevdet: Any) -> None:
    model = make_bevdet().train()
    queue = [frame(scene="a", index=0, follows=False), frame(scene="a", index=1, follows=True)]
    inputs, samples = make_batch(queue)
    inputs["img"].requires_grad_()
    sum(model(inputs, samples, mode="loss").values()).backward()
    assert inputs["img"].grad[0, 0].abs().max() == 0 and inputs["img"].grad[0, 1].abs().max() > 0
    assert model.img_backbone.bn1.num_batches_tracked == model.pre_process_net.layers[0][0].bn1.num_batches_tracked == 2
    assert model.img_bev_encoder_neck.conv[1].num_batches_tracked == 1


def test_velocities_are_displacements_over_the_gap(make_bevdet: Any) -> None:
    model = make_bevdet().eval()
    pair = [frame(scene="a", index=0, follows=False), frame(scene="a", index=2, follows=True)]
    decoded = model(*make_batch(pair))
    assert decoded.gap_s_B.tolist() == [1.0]
    pair[1]["timestamp"] = 2 * pair[1]["timestamp"]
    later = model(*make_batch(pair))
    assert later.gap_s_B.tolist() == [2.0]
    torch.testing.assert_close(later.per_second()[0].code_B10HW[:, 8:] * 2, decoded.tasks[0].code_B10HW[:, 8:])
    torch.testing.assert_close(later.per_second()[0].code_B10HW[:, :8], decoded.tasks[0].code_B10HW[:, :8])
    first = model(*make_batch([frame(scene="a", index=0, follows=False)]))
    assert first.gap_s_B.tolist() == [1.0]  # two key frames: no division by zero


def test_samples_without_an_object_have_losses_and_code_weights_count(make_bevdet: Any) -> None:
    model = make_bevdet().eval()
    inputs, samples = make_batch([frame(scene="a", index=0, follows=False)], objects=0)
    losses = model(inputs, samples, mode="loss")
    assert all(value.isfinite() for value in losses.values()) and losses["task0.loss_xy"] == 0
    batch = make_batch([frame(scene="a", index=0, follows=False)])
    before = model(*batch, mode="loss")
    model.set_code_weights((1.0,) * 8 + (0.0, 0.0))
    after = model(*batch, mode="loss")
    assert all(after[f"task{number}.loss_vel"] == 0 for number in range(6))
    assert all(torch.equal(after[name], before[name]) for name in before if "vel" not in name)


def test_what_does_not_fit_is_said_in_a_sentence(make_bevdet: Any) -> None:
    model = make_bevdet()
    inputs, samples = make_batch([frame(scene="a", index=0, follows=False)])
    with pytest.raises(ValueError, match="images are 32x32, but the detector lifts images of 64x32"):
        model({"img": inputs["img"][..., :32]}, samples)
    with pytest.raises(ValueError, match=r"for 1 samples with \[1\] frames"):
        model({"img": inputs["img"].expand(-1, 2, -1, -1, -1, -1)}, samples)
    with pytest.raises(ValueError, match="queues of 3 frames, but the detector sees at most 2"):
        model(*make_batch([frame(scene="a", index=index, follows=index > 0) for index in range(3)]))
    del samples[0].metainfo["frames"][0]["cam2lidar"]
    with pytest.raises(ValueError, match=r"a frame lacks \['cam2lidar'\].*lift data set"):
        model(inputs, samples)


def test_constants_of_another_grid_are_refused_though_their_shapes_fit(make_bevdet: Any) -> None:
    model, other = make_bevdet(), make_bevdet(cell_m=1.2)
    with pytest.raises(RuntimeError, match=r"img_view_transformer\.dx is of another grid"):
        model.load_state_dict(other.state_dict())
    half = {
        name: value.half().float() if value.is_floating_point() else value for name, value in model.state_dict().items()
    }
    model.load_state_dict(half)  # rounded to half precision they are still the same


def test_packing_to_half_precision_moves_no_point(make_bevdet: Any) -> None:
    model = make_bevdet().eval()
    queue = make_batch([frame(scene="a", index=0, follows=False)])
    before = model(*queue, mode="features").bev_mask_BNQD
    constants = model.img_view_transformer
    for name in ("dx", "bx", "nx", "frustum"):
        getattr(constants, name).data = getattr(constants, name).data.half().float() * 1.001
    assert torch.equal(model(*queue, mode="features").bev_mask_BNQD, before)


def test_a_plan_covers_it_and_constants_are_no_weights(make_bevdet: Any) -> None:
    model = make_bevdet()
    plan = make_plan(model, parts=model.parts(), weight_bits=4, activation_bits=6, last_sites=model.output_layers())
    assert {site.part for site in plan.quantized} == {"backbone", "neck", "encoder", "decoder"}
    convolutions = [path for path, module in model.named_modules() if isinstance(module, torch.nn.Conv2d)]
    assert sorted(site.path for site in plan.quantized) == sorted(convolutions)
    assert len(model.output_layers()) == 36
    frozen = [name for name, value in model.named_parameters() if not value.requires_grad]
    assert frozen == [f"img_view_transformer.{name}" for name in ("dx", "bx", "nx", "frustum")]


def test_counts_follow_the_stream_and_the_official_code_runs_the_past_again(make_bevdet: Any) -> None:
    model = make_bevdet()
    repeats = model.official_repeats(SCENE)
    lines = {line.path: line for line in count_macs(model, model.shape_run(SCENE))}
    assert lines["img_backbone.conv1"].macs == 6 * 3 * 49 * 8 * 16 * 32 and repeats["img_backbone.conv1"] == 2
    assert lines["pre_process_net.layers.0.0.conv1"].calls == 2 and "pre_process_net.layers.0.0.conv1" not in repeats
    assert make_bevdet(frames_back=0).official_repeats(SCENE) == model.sampling_repeats(SCENE) == {}
    trained = make_bevdet().shape_run(SCENE, training=True)()
    assert trained.tasks[0].heat_BCHW.requires_grad


def test_a_frame_of_noise(make_bevdet: Any) -> None:
    model = make_bevdet().eval()
    stages = model.noise_stages(SCENE, device=torch.device("cpu"))
    assert stages.first.shape == (1, 6, 3, *SIZE) and stages.first.std() > 0.9
    value = stages.first
    for step in stages.streamed().values():
        value = step(value)
    assert value[0][0] == "noise"
    assert model.cannot("stages") == model.cannot("shapes") == ""
    assert model.first_positions() == model.value_pairs() == ()


# Date, value and reason of every change:
# 2026-11-29  first values, of the code whose R50 variants gave the official outputs, losses and gradients of case 1
@pytest.mark.parametrize(
    ("frames_back", "mean", "cell", "code", "total"),
    [(0, 0.0464851, -0.0100959, 0.1905698, 469.6892), (2, 0.1029541, -0.0712253, -0.1703234, 422.6165)],
)
def test_golden_numbers(
    make_bevdet: Any, frames_back: int, mean: float, cell: float, code: float, total: float
) -> None:
    model = make_bevdet(frames_back=frames_back).eval()
    queue = [frame(scene="a", index=0, follows=False), frame(scene="a", index=2, follows=True)]
    inputs, samples = make_batch(queue, objects=3)
    wave = torch.arange(inputs["img"].numel(), dtype=torch.float64) * 0.37
    truth = samples[0].gt_instances_3d
    truth.bboxes_3d.tensor = torch.tensor(
        [
            [1.0, 2.0, -1.0, 4.0, 2.0, 1.5, 0.3, 1.0, -2.0],
            [-12.9, 5.0, -1.0, 1.0, 1.0, 1.7, 2.0, 0.0, 0.0],
            [-6.0, -7.0, -1.0, 9.0, 3.0, 3.0, -1.0, 4.0, 1.0],
        ]
    )
    truth.labels_3d = torch.tensor([0, 8, 3])
    losses, seen = model({"img": wave.cos().float().view_as(inputs["img"])}, samples, mode="loss_with_features")
    assert float(seen.image[0].detach().abs().mean()) == pytest.approx(0.5236387, rel=1e-4)
    assert int(seen.bev_mask_BNQD.sum()) == 84
    assert float(seen.bev_BQC.detach().abs().mean()) == pytest.approx(mean, rel=1e-4)
    assert float(seen.bev_BQC[0, 100, 3].detach()) == pytest.approx(cell, rel=1e-3)
    assert float(seen.code_LBKD[0, 0, 1000, 0].detach()) == pytest.approx(code, rel=1e-3)
    assert float(sum(losses.values()).detach()) == pytest.approx(total, rel=1e-4)
