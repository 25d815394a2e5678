"""Laws of the whole detector."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from qdbev.detectors.bevformer import frame_batch
from qdbev.detectors.images.batches import ground_truth


def alone(batch, sample):
    """The batch of this sample only."""
    inputs, samples = batch
    return {"img": inputs["img"][sample : sample + 1]}, [samples[sample]]


def randomised_norms(model):
    """Batch norm that is not the identity."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
            torch.nn.init.normal_(module.running_mean, std=0.2)
            torch.nn.init.uniform_(module.weight, 0.5, 1)
    return model


@pytest.fixture
def model(make_model):
    return randomised_norms(make_model()).eval()


def assert_same(one, two, atol=5e-5):  # three frames of float32 sums in another order
    torch.testing.assert_close(one, two, atol=atol, rtol=0)


@torch.no_grad()
def test_a_batch_equals_its_samples_alone_whatever_their_histories(model, make_batch):
    batch = make_batch(follows=[[False, True, True], [False, True, False], [False, False, True]])
    features, decoded = model(*batch, mode="features"), model(*batch)
    for sample in range(3):
        one, boxes = model(*alone(batch, sample), mode="features"), model(*alone(batch, sample))
        assert_same(features.bev_BQC[sample], one.bev_BQC[0])
        assert torch.equal(features.bev_mask_BNQD[sample], one.bev_mask_BNQD[0])
        assert_same(features.image[1][sample], one.image[1][0])
        assert_same(decoded.logits_LBKC[:, sample], boxes.logits_LBKC[:, 0])
        assert_same(decoded.code_LBK10[:, sample], boxes.code_LBK10[:, 0], atol=1e-4)


@torch.no_grad()
def test_history_matters_and_frames_before_a_restart_do_not(model, make_batch):
    inputs, samples = make_batch(follows=[[False, False, True]])
    bev = model(inputs, samples, mode="features").bev_BQC
    inputs["img"][:, 0] += 1
    assert torch.equal(model(inputs, samples, mode="features").bev_BQC, bev)
    inputs["img"][:, 1] += 1
    assert (model(inputs, samples, mode="features").bev_BQC - bev).abs().max() > 1e-3


@torch.no_grad()
def test_no_history_means_no_ego_motion(model, make_batch):
    inputs, samples = make_batch(follows=[[False]])
    bev = model(inputs, samples, mode="features").bev_BQC
    can_bus = samples[0].metainfo["frames"][0]["can_bus"]
    can_bus[[0, 1, 2, 17]] = torch.tensor([5.0, 6.0, 7.0, 80.0])
    assert torch.equal(model(inputs, samples, mode="features").bev_BQC, bev)
    can_bus[13] += 1  # the speed counts also without history
    assert (model(inputs, samples, mode="features").bev_BQC - bev).abs().max() > 1e-4


@torch.no_grad()
def test_a_stream_equals_a_queue(model, make_batch):
    inputs, samples = make_batch(follows=[[False, True, True], [False, True, True]])
    queue = model(inputs, copy.deepcopy(samples), mode="predict")
    for step in range(3):
        now = copy.deepcopy(samples)
        for sample in now:
            sample.set_metainfo({"frames": [sample.metainfo["frames"][step]]})
        stream = model({"img": inputs["img"][:, step : step + 1]}, now, mode="predict")
    for one, two in zip(queue, stream, strict=True):
        assert_same(one.pred_instances_3d.scores_3d, two.pred_instances_3d.scores_3d)
        assert_same(one.pred_instances_3d.bboxes_3d.tensor, two.pred_instances_3d.bboxes_3d.tensor, atol=1e-3)


@torch.no_grad()
def test_a_stream_forgets_at_reset_and_at_a_gap(model, make_batch):
    first, then = make_batch(follows=[[False]]), make_batch(follows=[[True]], first_index=1, seed=1)
    gap = make_batch(follows=[[True]], first_index=2, seed=1)

    def scores(batch):
        return model(batch[0], copy.deepcopy(batch[1]), mode="predict")[0].pred_instances_3d.scores_3d

    without = scores(then)
    model.history.reset()
    scores(first)
    assert not torch.equal(scores(then), without)
    model.history.reset()
    assert torch.equal(scores(then), without)
    model.history.reset()
    scores(first)
    assert torch.equal(scores(gap), without)


def test_past_frames_run_in_eval_mode_and_modes_come_back(make_model, make_batch):
    model = make_model(dropout=0.5).train()
    model.img_backbone.bn1.eval()  # one frozen norm
    modes = [module.training for module in model.modules()]
    inputs, samples = make_batch(follows=[[False, True]])
    past = [model.rolled_history(inputs["img"], samples).bev_BQC for _ in range(2)]
    assert torch.equal(*past)
    assert not torch.equal(*(model(inputs, samples, mode="features").bev_BQC for _ in range(2)))
    assert [module.training for module in model.modules()] == modes


def test_only_the_current_frame_gets_gradients(make_model, make_batch):
    model = make_model()
    inputs, samples = make_batch(follows=[[False, True]])
    inputs["img"].requires_grad_()
    sum(model(inputs, samples, mode="loss").values()).backward()
    grad = inputs["img"].grad.abs().sum(dim=(0, 2, 3, 4, 5))
    assert grad[0] == 0
    assert grad[1] > 0


def test_every_parameter_gets_a_gradient(make_model, make_batch):
    model = make_model(auxiliary=True)
    sum(model(*make_batch(follows=[[False, True]]), mode="loss").values()).backward()
    without = {name for name, each in model.named_parameters() if each.requires_grad and each.grad is None}
    assert without == set()


def test_losses_without_objects_and_without_velocities(make_model, make_batch):
    model = make_model(auxiliary=True)
    inputs, samples = make_batch(follows=[[False], [False]], objects=4)
    samples[0].gt_instances_3d.bboxes_3d.tensor[1, 7:] = math.nan
    samples[1].gt_instances_3d = samples[1].gt_instances_3d[:0]
    losses = model(inputs, samples, mode="loss")
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert all(each.grad.isfinite().all() for each in model.parameters() if each.grad is not None)


def test_auxiliary_heads_change_nothing_but_the_losses(make_model, make_batch):
    plain, helped = make_model().eval(), make_model(auxiliary=True).eval()
    extra = set(helped.state_dict()) - set(plain.state_dict())
    assert extra == {name for name in helped.state_dict() if name.startswith("auxiliary.")} != set()
    plain.load_state_dict({name: each for name, each in helped.state_dict().items() if name not in extra})
    batch = make_batch(follows=[[False, True]])
    losses = plain(*batch, mode="loss")
    assert {name: float(loss.detach()) for name, loss in losses.items()} == {
        name: float(loss.detach())
        for name, loss in helped(*batch, mode="loss").items()
        if not name.startswith("auxiliary.")
    }


def test_parts_name_every_parameter_once(make_model):
    model = make_model(auxiliary=True)
    paths = [path for paths in model.parts().values() for path in paths]
    for name, _ in model.named_parameters():
        owners = [path for path in paths if name == path or name.startswith(f"{path}.")]
        assert len(owners) == (0 if name.startswith("auxiliary.") else 1), name


def test_losses_come_with_the_features_they_were_made_from(model, make_batch):
    batch = make_batch(follows=[[False, True]])
    losses, features = model(*batch, mode="loss_with_features")
    assert set(losses) == {"loss_cls", "loss_bbox", "d0.loss_cls", "d0.loss_bbox"}
    again = model(*batch, mode="features")
    assert torch.equal(features.bev_BQC, again.bev_BQC)
    assert [tuple(level.shape) for level in features.image] == [(1, 6, 16, 8, 12), (1, 6, 16, 4, 6)]
    assert features.bev_mask_BNQD.shape == (1, 6, 80, 4)


def test_outputs_come_from_the_pass_that_gives_losses_and_from_a_teacher_only_where_wanted(model, make_batch):
    batch, runs = make_batch(follows=[[False, True]]), []
    model.pts_bbox_head.transformer.decoder.register_forward_hook(lambda *_: runs.append(1))
    _, features = model(*batch, mode="loss_with_features")
    assert len(runs) == 1
    without = model(*batch, mode="features")
    assert len(runs) == 1 and without.logits_LBKC is None and without.code_LBKD is None
    taught = model(*batch, mode="features_with_outputs")
    assert len(runs) == 2 and torch.equal(taught.bev_BQC, without.bev_BQC)
    decoded = model(*batch)
    for one in (features, taught):
        assert torch.equal(one.logits_LBKC, decoded.logits_LBKC) and torch.equal(one.code_LBKD, decoded.code_LBK10)
    assert features.logits_LBKC.requires_grad and features.code_LBKD.requires_grad


@torch.no_grad()
def test_stages_compose_to_the_prediction(model, make_batch):
    inputs, samples = make_batch(follows=[[False]])
    levels = model.neck_features(model.backbone_features(inputs["img"][:, 0]), cameras=6)
    frames = frame_batch([samples[0].metainfo["frames"][0]], device=torch.device("cpu"))
    boxes = model.boxes(model.decode(model.encode(levels, frames=frames, history=None).bev_BQC))
    predicted = model(inputs, samples, mode="predict")[0].pred_instances_3d
    assert torch.equal(boxes[0].scores_3d, predicted.scores_3d)
    assert torch.equal(boxes[0].bboxes_3d.tensor, predicted.bboxes_3d.tensor)
    assert (predicted.scores_3d.diff() <= 0).all()


def test_bfloat16_is_close_and_keeps_the_mask(model, make_batch):
    batch = make_batch(follows=[[False, True]])
    exact, features = model(*batch, mode="loss_with_features")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half, half_features = model(*batch, mode="loss_with_features")
    assert torch.equal(features.bev_mask_BNQD, half_features.bev_mask_BNQD)
    total, half_total = (float(sum(losses.values()).detach()) for losses in (exact, half))
    assert half_total == pytest.approx(total, rel=0.05)
    assert all(loss.dtype == torch.float32 for loss in half.values())


def test_training_on_two_samples_learns_them(make_model, make_batch):
    model = make_model(auxiliary=True)
    batch = make_batch(follows=[[False, True], [False, True]], objects=3)
    optimiser = torch.optim.AdamW(model.parameters(), lr=4e-3)
    history = []
    for _ in range(60):
        losses = model(*batch, mode="loss")
        total = sum(loss for name, loss in losses.items() if not name.startswith("auxiliary."))
        optimiser.zero_grad()
        sum(losses.values()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 35)
        optimiser.step()
        history.append(float(total.detach()))
    assert history[-1] < 0.4 * history[0]


def test_mistakes_are_named(model, make_batch):
    inputs, samples = make_batch(follows=[[False]])
    with pytest.raises(ValueError, match="mode is 'train', expected one of"):
        model(inputs, samples, mode="train")
    with pytest.raises(ValueError, match=r"expected \(samples, frames, cameras, 3, height, width\)"):
        model({"img": inputs["img"][0]}, samples, mode="predict")
    del samples[0].metainfo["frames"][0]["can_bus"]
    with pytest.raises(ValueError, match=r"a frame lacks \['can_bus'\]"):
        model(inputs, samples, mode="predict")


def test_boxes_without_velocity_columns_are_refused(make_batch):
    _, samples = make_batch(follows=[[False]])
    boxes = samples[0].gt_instances_3d.bboxes_3d
    boxes.tensor = boxes.tensor[:, :7]
    with pytest.raises(ValueError, match="has 7 numbers, expected 9"):
        ground_truth(samples, device=torch.device("cpu"))
