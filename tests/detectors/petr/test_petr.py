"""PETR: official names and sizes, its own quirks by hand, batches, and a golden case of its own."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch

import profiles
from pipelines.assembly.detector import build_detector
from pipelines.assembly.quantized import detector_plan
from pipelines.assembly.strict_loading import Misfit, load_strictly
from pipelines.costs.counts import count
from qdbev.detectors.images.frame_batch import FrameBatch
from qdbev.detectors.petr import PETR, build_petr
from qdbev.detectors.petr.decoder import CellCrossAttention, Memory
from qdbev.detectors.petr.neck import CPFPN
from qdbev.detectors.petr.position import depths_m, frustum_logits, padded_cells, query_sines, rig_sines
from tests.detectors.queries.variants import PETR_MITE

CAMERA = torch.tensor([[2.0, 0, 4, 0], [0, 2.0, 4, 0], [0, 0, 1, 0], [0, 0, 0, 1]])  # 8 x 8 pixels, along z


@pytest.fixture
def mite() -> PETR:
    torch.manual_seed(0)
    return build_petr(**PETR_MITE).eval()


def frames_of(*, width: float = 8.0, height: float = 8.0, cameras: int = 1, valid: Any = None) -> FrameBatch:
    size = torch.tensor([[width, height]])
    valid = None if valid is None else torch.tensor([valid])
    matrices = CAMERA.expand(1, cameras, 4, 4)
    return FrameBatch(("a",), (0,), (False,), torch.zeros(1, 18), matrices, size, valid)


def test_state_dict_has_the_official_names_and_shapes(shared):
    official = json.loads((shared / "reference" / "petr_r50dcn_keys.json").read_text())
    model = profiles.load("float", model="petr").model
    state = build_detector(model).state_dict()
    assert {key: list(tensor.shape) for key, tensor in state.items()} == official
    assert model.fits({key: tuple(shape) for key, shape in official.items()})


def test_parameters_and_operations_are_the_official_ones(shared):
    params = json.loads((shared / "reference" / "petr_detr3d_params.json").read_text())["petr_r50dcn"]
    official = json.loads((shared / "reference" / "petr_detr3d_macs.json").read_text())["petr_r50dcn"]
    cost = count(profiles.load("float", model="petr"))
    assert cost.trainable == params["totals"]["trainable"]
    lines = [line for line in cost.official if line.kind != "product"]  # rays through cells, not in its list
    wanted: Counter[str] = Counter()
    for path, layer in official["layers"].items():
        owner, _, last = path.rpartition(".")
        wanted[owner if last.startswith(("#", "in_proj_", "out_proj")) or last == "in_proj" else path] += layer["macs"]
    found: Counter[str] = Counter()
    for line in lines:
        found[line.path] += line.macs
    assert found == wanted
    assert sum(line.macs for line in lines if line.is_layer) == official["total_conv_dcn_linear"]
    assert sum(line.macs for line in lines) == official["total_plus_sampling"]


def test_branches_are_one_tensor_under_the_names_of_all_layers_and_one_site(mite):
    """Guards names and numbers where the reference material is absent; 2026-11-29."""
    state = mite.state_dict()
    assert (len(state), sum(parameter.numel() for parameter in mite.parameters())) == (182, 61_498)
    first, last = (state[f"pts_bbox_head.cls_branches.{layer}.6.weight"] for layer in (0, 1))
    assert first.data_ptr() == last.data_ptr()
    plan = detector_plan(mite, section=profiles.load("w8a8").quantization)
    branches = [site.path for site in plan if "_branches." in site.path and site.kind == "linear"]
    assert branches == [
        f"pts_bbox_head.{name}"
        for name in (*(f"cls_branches.0.{at}" for at in (0, 3, 6)), *(f"reg_branches.0.{at}" for at in (0, 2, 4)))
    ]
    assert {site.path: site.part for site in plan}["pts_bbox_head.query_embedding.0"] == "encoder"


@torch.no_grad()
def test_outputs_of_the_golden_variant(mite, make_batch):
    decoded = mite(*make_batch(follows=[[False]]))
    tensors = (decoded.logits_LBKC, decoded.code_LBK10, decoded.states_BKE)
    assert [float(tensor.abs().double().mean()) for tensor in tensors] == pytest.approx(
        [4.709867, 5.280173, 0.835419], rel=1e-4
    )


def test_positions_are_fractions_of_the_official_range():
    official = profiles.load("float", model="petr").model.content()["position"]
    assert list(official["range_m"]) == [-61.2, -61.2, -10.0, 61.2, 61.2, 10.0]
    assert (official["depths"], official["depth_start_m"]) == (64, 1.0)


def test_depths_grow_to_the_official_last_one():
    depths = depths_m(64, start_m=1.0, end_m=61.2, device="cpu")
    assert depths[0] == 1 and float(depths[63]) == pytest.approx(1 + 60.2 * 63 * 64 / (64 * 65), rel=1e-6)


def test_a_cell_is_the_pixel_in_its_top_left_corner():
    """2 x 2 cells of 8 x 8 pixels: cell (row 1, column 1) is pixel (4, 4), the optical axis; its centre is (6, 6)."""
    depths = torch.tensor([1.0, 3.0])
    places = frustum_logits((2, 2), frames=frames_of(), depths=depths, position_range=(-4.0, -4.0, 0.0, 4.0, 4.0, 4.0))
    assert places.shape == (1, 1, 6, 2, 2)  # depth by depth, x y z in each
    at = places[0, 0].sigmoid()
    torch.testing.assert_close(at[:, 1, 1], torch.tensor([0.5, 0.5, 0.25, 0.5, 0.5, 0.75]))
    # the first cell is pixel (0, 0), 4 pixels off the axis of focal length 2: x = -2 d
    torch.testing.assert_close(at[0, 0, 0], torch.tensor(0.25))
    assert float(places[0, 0, 3, 0, 0]) == pytest.approx(-math.log(1 / 1e-5), rel=1e-4)  # -6 m is clamped


def test_padding_is_told_by_the_size_before_it():
    assert padded_cells((2, 4), frames=frames_of()) is None
    padded = padded_cells((2, 4), frames=frames_of(valid=[5.0, 8.0]))
    assert padded is not None
    assert padded[0].tolist() == [[False, False, False, True]] * 2  # pixels 0, 2, 4 hold image, 6 does not


def test_cameras_rows_and_columns_are_counted_to_a_full_turn_sines_first():
    sines = rig_sines((1, 4), cameras=3, padded_BHW=None, frames=frames_of(cameras=3), features=4)
    assert sines.shape == (1, 3, 12, 1, 4)
    camera, row, column = sines[0, 1, :, 0, 2].split(4)
    for found, turn in ((camera, 2 / 3), (row, 1.0), (column, 3 / 4)):
        angle = 2 * math.pi * turn
        expected = [math.sin(angle), math.sin(angle / 100), math.cos(angle), math.cos(angle / 100)]
        torch.testing.assert_close(found, torch.tensor(expected), atol=1e-4, rtol=0)


def test_anchors_are_taken_raw_and_y_comes_first():
    found = query_sines(torch.tensor([[0.1, 1.02, 0.3]]), features=2)[0]
    expected = [wave(2 * math.pi * place) for place in (1.02, 0.1, 0.3) for wave in (math.sin, math.cos)]
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-5, rtol=0)


@torch.no_grad()
def test_positions_join_keys_and_not_values():
    """Where queries and keys project to nothing, all cells count the same, and positions leave no trace."""
    attention = CellCrossAttention(channels=4, heads=1, dropout=0.0).eval()
    attention.attn.in_proj_weight.zero_()
    attention.attn.in_proj_weight[8:].copy_(torch.eye(4))
    attention.attn.in_proj_bias.zero_()
    attention.attn.out_proj.weight.copy_(torch.eye(4))
    cells, query = torch.randn(1, 6, 4), torch.zeros(1, 2, 4)
    memory = Memory(cells, torch.randn(1, 6, 4), torch.zeros(2, 4), None)
    out = attention(query, position_BKE=query, memory=memory)
    torch.testing.assert_close(out[0, 0], cells.mean(1)[0])
    unseen = replace(memory, padded_BS=torch.tensor([[False] * 3 + [True] * 3]))
    torch.testing.assert_close(attention(query, position_BKE=query, memory=unseen)[0, 0], cells[:, :3].mean(1)[0])


@torch.no_grad()
def test_the_neck_smooths_its_finest_level_alone():
    neck = CPFPN([2, 2], 2)
    for lateral in neck.lateral_convs:
        lateral.conv.weight.copy_(torch.eye(2)[..., None, None])
        lateral.conv.bias.zero_()
    neck.fpn_convs[0].conv.weight.zero_()
    neck.fpn_convs[0].conv.bias.fill_(7)
    fine, coarse = torch.randn(1, 2, 4, 4), torch.randn(1, 2, 2, 2)
    first, second = neck((fine, coarse))
    assert torch.equal(first, torch.full_like(fine, 7)) and torch.equal(second, coarse)


@torch.no_grad()
def test_every_layer_starts_from_the_same_anchors_which_only_the_boxes_clamp(mite, make_batch):
    head = mite.pts_bbox_head
    head.reference_points.weight[0] = torch.tensor([1.02, -0.02, 0.5])
    last = head.reg_branches[0][-1]
    last.weight.zero_()
    last.bias.zero_()
    code = mite(*make_batch(follows=[[False]])).code_LBK10
    torch.testing.assert_close(code[0], code[1], atol=1e-5, rtol=0)
    expected = head.reference_points.weight.clamp(1e-5, 1 - 1e-5) * torch.tensor([102.4, 102.4, 8.0])
    expected += torch.tensor([-51.2, -51.2, -5.0])
    torch.testing.assert_close(code[0, 0][:, [0, 1, 4]], expected, atol=1e-3, rtol=0)


def test_losses_teach_the_anchors_and_the_layers_without_effect_get_none(mite, make_batch):
    inputs, samples = make_batch(follows=[[False]])
    losses, features = mite(inputs, samples, mode="loss_with_features")
    sum(losses.values()).backward()
    head = mite.pts_bbox_head
    assert head.reference_points.weight.grad.abs().sum() > 0
    # a constant added to all keys changes nothing
    assert head.position_encoder[2].bias.grad.abs().max() < 1e-4 * head.position_encoder[2].weight.grad.abs().max()
    assert features.bev_BQC.shape == (1, 12, 16) and features.bev_mask_BNQD.shape == (1, 6, 12, 1)
    assert len(features.image) == 1


@torch.no_grad()
def test_queries_look_at_the_finest_level_alone_and_cameras_have_their_order(mite, make_batch):
    inputs, samples = make_batch(follows=[[False]])
    from qdbev.detectors.images.batches import current_frames

    frames = current_frames(samples, device=torch.device("cpu"))
    levels = mite.extract_feat(inputs["img"][:, -1])
    alone = mite.decoded(levels[:1], frames=frames).logits_LBKC
    assert torch.equal(mite.decoded(levels, frames=frames).logits_LBKC, alone)
    turned = replace(frames, lidar2img_BN44=frames.lidar2img_BN44.flip(1))
    other = mite.decoded([levels[0].flip(1)], frames=turned).logits_LBKC
    assert (other - alone).abs().max() > 2e-5  # rounding gives 1e-6


@torch.no_grad()
def test_a_stream_part_by_part_is_the_detectors_own(mite, make_batch):
    inputs, samples = make_batch(follows=[[False], [False]])
    stages = mite.stages(inputs, samples, history=mite.new_history(scenes=2))
    assert list(stages.steps) == list(mite.parts())
    value = stages.first
    for step in stages.streamed().values():
        value = step(value)
    for (token, found), (expected_token, expected) in zip(value, mite.detections(inputs, samples), strict=True):
        assert token == expected_token and torch.equal(found.scores_3d, expected.scores_3d)


def test_a_box_without_size_is_forgiven_as_officially(mite, make_batch):
    inputs, samples = make_batch(follows=[[False]])
    samples[0].gt_instances_3d.bboxes_3d.tensor[0, 3] = 0  # its logarithm is no number
    assert all(loss.isfinite() for loss in mite(inputs, samples, mode="loss").values())


@pytest.mark.parametrize("equal", [True, False])
def test_a_checkpoint_lists_all_copies_of_a_branch_and_they_are_alike(mite, equal):
    """As published: six names of one tensor each, here two."""
    state = {name: tensor.clone() for name, tensor in mite.state_dict().items()}
    name = "pts_bbox_head.reg_branches.1.4.bias"
    for copy in (name, name.replace("s.1", "s.0")) if equal else (name,):
        state[copy] += 1
    if equal:
        load_strictly(mite, state=state, origin="a file")
        assert torch.equal(mite.state_dict()[name], state[name])
    else:
        with pytest.raises(Misfit, match="1 unlike the copies that the model holds as one"):
            load_strictly(mite, state=state, origin="a file")


@torch.no_grad()
def test_a_batch_of_two_is_two_singles(mite, make_batch):
    inputs, samples = make_batch(follows=[[False], [False]])
    samples[1].metainfo["frames"][0]["valid_shape"] = (64, 80)  # padded unlike the other
    together = mite(inputs, samples, mode="features")
    for place in range(2):
        single = mite({"img": inputs["img"][place : place + 1]}, samples[place : place + 1], mode="features")
        torch.testing.assert_close(single.bev_BQC[0], together.bev_BQC[place], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(single.code_LBKD[:, 0], together.code_LBKD[:, place], atol=1e-4, rtol=1e-5)


def test_the_class_loss_counts_matches_of_this_process_alone(mite, make_batch, monkeypatch):
    inputs, samples = make_batch(follows=[[False]])
    alone = mite(inputs, samples, mode="loss")
    monkeypatch.setattr("qdbev.detectors.boxes.loss.reduce_mean", lambda count: 2 * count)  # others have more
    together = mite(inputs, samples, mode="loss")
    torch.testing.assert_close(together["loss_cls"], alone["loss_cls"])
    torch.testing.assert_close(together["loss_bbox"], alone["loss_bbox"] / 2)
