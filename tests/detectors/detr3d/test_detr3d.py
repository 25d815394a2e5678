"""DETR3D: official names and sizes, its own quirks by hand, batches, and a golden case of its own."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
import torch

import profiles
from pipelines.assembly.detector import build_detector
from pipelines.costs.counts import count
from qdbev.detectors.detr3d import DETR3D, build_detr3d
from qdbev.detectors.detr3d.image_attention import ImageCrossAttention, View, sampled
from qdbev.detectors.images.frame_batch import FrameBatch
from qdbev.detectors.queries.references import inverse_sigmoid
from tests.detectors.queries.variants import DETR3D_MITE

OFFICIAL = {"detr3d": "detr3d_r101", "detr3d-r50": "detr3d_r50"}


@pytest.fixture
def mite() -> DETR3D:
    torch.manual_seed(0)
    model = build_detr3d(**DETR3D_MITE)
    for name, parameter in model.named_parameters():  # so that looks differ, and boxes move
        if "attention_weights.weight" in name or name.endswith("4.weight"):
            torch.nn.init.normal_(parameter, std=0.5)
    return model.eval()


def frames_of(matrices: torch.Tensor, *, width: float, height: float) -> FrameBatch:
    batch = len(matrices)
    size = torch.tensor([[width, height]]).expand(batch, -1)
    return FrameBatch(("a",) * batch, (0,) * batch, (False,) * batch, torch.zeros(batch, 18), matrices, size)


@pytest.mark.parametrize("name", OFFICIAL)
def test_state_dict_has_the_official_names_and_shapes(name, shared):
    official = json.loads((shared / "reference" / f"{OFFICIAL[name]}_keys.json").read_text())
    model = profiles.load("float", model=name).model
    state = build_detector(model).state_dict()
    assert {key: list(tensor.shape) for key, tensor in state.items()} == official
    assert model.fits({key: tuple(shape) for key, shape in official.items()})
    others = [other for other in OFFICIAL if other != name]
    assert not any(profiles.load("float", model=other).model.fits(official) for other in others)


@pytest.mark.parametrize("name", OFFICIAL)
def test_parameters_and_operations_are_the_official_ones(name, shared):
    params = json.loads((shared / "reference" / "petr_detr3d_params.json").read_text())[OFFICIAL[name]]
    official = json.loads((shared / "reference" / "petr_detr3d_macs.json").read_text())[OFFICIAL[name]]
    cost = count(profiles.load("float", model=name))
    lines = [line for line in cost.official if line.kind != "product"]  # projections of points, not in its list
    assert cost.trainable == params["totals"]["trainable"]
    wanted: Counter[str] = Counter()
    for path, layer in official["layers"].items():
        owner, _, last = path.rpartition(".")
        wanted[owner if last.startswith(("#", "in_proj", "out_proj")) else path] += layer["macs"]
    found: Counter[str] = Counter()
    for line in lines:
        found[line.path] += line.macs
    assert found == wanted
    layers = sum(line.macs for line in lines if line.is_layer)
    assert layers == official["total_conv_dcn_linear"]
    assert sum(line.macs for line in lines) == official["total_plus_sampling"]


def test_sizes_of_the_golden_variant(mite):
    """Guards names and numbers where the reference material is absent; 2026-11-29."""
    state = mite.state_dict()
    assert (len(state), sum(parameter.numel() for parameter in mite.parameters())) == (188, 62_129)
    head = [name for name in state if "layers.1.attentions.1" in name]
    assert [name.partition("attentions.1.")[2] for name in head] == [
        f"{layer}.{kind}"
        for layer in (
            "attention_weights",
            "output_proj",
            "position_encoder.0",
            "position_encoder.1",
            "position_encoder.3",
            "position_encoder.4",
        )
        for kind in ("weight", "bias")
    ]


@torch.no_grad()
def test_outputs_of_the_golden_variant(mite, make_batch):
    decoded = mite(*make_batch(follows=[[False]]))
    tensors = (decoded.logits_LBKC, decoded.code_LBK10, decoded.states_BKE)
    assert [float(tensor.abs().double().mean()) for tensor in tensors] == pytest.approx(
        [4.634211, 5.130048, 0.779820], rel=1e-4
    )


def test_weights_are_sigmoids_that_nothing_divides():
    """Two cameras that see a point count twice: no softmax, no mean over cameras, no projection of the features."""
    attention = ImageCrossAttention(channels=4, cameras=2, levels=1, dropout=0.0).eval()
    with torch.no_grad():
        for layer in (attention.attention_weights, attention.output_proj):
            torch.nn.init.zeros_(layer.weight)
            torch.nn.init.zeros_(layer.bias)
        attention.output_proj.weight.copy_(torch.eye(4))
        camera = torch.tensor([[2.0, 0, 4, 0], [0, 2.0, 4, 0], [0, 0, 1, 0], [0, 0, 0, 1]])  # 8 x 8 pixels, along z
        view = View(
            [torch.ones(1, 2, 4, 8, 8)],
            frames_of(torch.stack([camera, camera])[None], width=8.0, height=8.0),
            (-1.0, -1.0, 0.0, 1.0, 1.0, 2.0),
        )
        query, reference = torch.zeros(1, 1, 4), torch.full((1, 1, 3), 0.5)
        out = attention(query, position_BKC=query, reference_BK3=reference, view=view)
        place = attention.position_encoder(inverse_sigmoid(reference))
    torch.testing.assert_close(out - place, torch.full((1, 1, 4), 2 * 0.5))
    assert (place >= 0).all()  # it ends in a ReLU


def test_cameras_and_levels_have_weights_in_this_order():
    """Index camera * levels + level: a look at camera 1, level 0 is the third of four."""
    attention = ImageCrossAttention(channels=1, cameras=2, levels=2, dropout=0.0).eval()
    camera = torch.tensor([[2.0, 0, 4, 0], [0, 2.0, 4, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    levels = [torch.tensor([1.0, 10.0]), torch.tensor([100.0, 1000.0])]
    with torch.no_grad():
        attention.output_proj.weight.fill_(1)
        attention.output_proj.bias.zero_()
        attention.attention_weights.weight.zero_()
        attention.attention_weights.bias.copy_(torch.tensor([-99.0, -99.0, 99.0, -99.0]))
        view = View(
            [value.view(1, 2, 1, 1, 1).expand(-1, -1, -1, 8, 8) for value in levels],
            frames_of(torch.stack([camera, camera])[None], width=8.0, height=8.0),
            (-1.0, -1.0, 0.0, 1.0, 1.0, 2.0),
        )
        query, reference = torch.zeros(1, 1, 1), torch.full((1, 1, 3), 0.5)
        out = attention(query, position_BKC=query, reference_BK3=reference, view=view)
        place = attention.position_encoder(inverse_sigmoid(reference))
    assert float(out - place) == pytest.approx(10.0)


def test_a_point_in_the_padded_strip_is_seen_and_one_on_the_border_is_not():
    camera = torch.tensor([[1.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    view = View(
        [torch.ones(1, 1, 1, 8, 8)],
        frames_of(camera[None, None], width=8.0, height=8.0),
        (0.0, 0.0, 0.0, 8.0, 8.0, 1.0),
    )
    points = torch.tensor([[[0.5, 0.99, 1.0], [0.5, 0.0, 1.0], [0.5, 0.5, 1e-6], [0.0, 0.5, 1.0]]])
    features, seen = sampled(points, view=view)
    assert seen[0, 0].tolist() == [True, False, False, False]
    assert features.isfinite().all()


def test_a_query_that_no_camera_sees_gets_the_bias_of_the_projection(mite, make_batch):
    inputs, _ = make_batch(follows=[[False]])
    attention = mite.pts_bbox_head.transformer.decoder.layers[0].attentions[1]
    behind = torch.diag(torch.tensor([1.0, 1.0, -1.0, 1.0])).expand(1, 6, 4, 4)
    levels = mite.extract_feat(inputs["img"][:, -1])
    view = View(levels, frames_of(behind, width=96.0, height=64.0), (0.0, 0.0, 0.0, 1.0, 1.0, 1.0))
    query, reference = torch.randn(1, 3, 16), torch.rand(1, 3, 3)
    out = attention(query, position_BKC=query, reference_BK3=reference, view=view)
    expected = query + attention.output_proj.bias + attention.position_encoder(inverse_sigmoid(reference))
    torch.testing.assert_close(out, expected)


def test_first_references_learn_from_where_they_sample(mite, make_batch):
    """Only references after a layer are detached; the official code lets the first look teach the linear layer."""
    inputs, samples = make_batch(follows=[[False]])
    mite.decoded(mite.extract_feat(inputs["img"][:, -1]), frames=frames_of_samples(samples)).logits_LBKC[
        0
    ].sum().backward()
    assert mite.pts_bbox_head.transformer.reference_points.weight.grad.abs().sum() > 0


def frames_of_samples(samples: list[Any]) -> FrameBatch:
    from qdbev.detectors.images.batches import current_frames

    return current_frames(samples, device=torch.device("cpu"))


def test_another_number_of_cameras_is_one_sentence(mite, make_batch):
    inputs, samples = make_batch(follows=[[False]])
    frame = samples[0].metainfo["frames"][0]
    frame["lidar2img"] = frame["lidar2img"][:4]
    with pytest.raises(ValueError, match="a frame has 4 cameras; this DETR3D weighs 6, each in its place"):
        mite({"img": inputs["img"][:, :, :4]}, samples)


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


@torch.no_grad()
def test_a_batch_of_two_is_two_singles(mite, make_batch):
    inputs, samples = make_batch(follows=[[False], [False]])
    together = mite(inputs, samples, mode="features")
    for place in range(2):
        single = mite({"img": inputs["img"][place : place + 1]}, samples[place : place + 1], mode="features")
        torch.testing.assert_close(single.bev_BQC[0], together.bev_BQC[place], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(single.code_LBKD[:, 0], together.code_LBKD[:, place], atol=1e-4, rtol=1e-5)
        assert torch.equal(single.bev_mask_BNQD[0], together.bev_mask_BNQD[place])


@torch.no_grad()
def test_the_order_of_cameras_counts(mite, make_batch):
    inputs, samples = make_batch(follows=[[False]])
    first = mite(inputs, samples).logits_LBKC
    samples[0].metainfo["frames"][0]["lidar2img"] = samples[0].metainfo["frames"][0]["lidar2img"].flip(0)
    assert not torch.allclose(mite({"img": inputs["img"].flip(2)}, samples).logits_LBKC, first)


def test_losses_come_with_features_of_the_last_queries(mite, make_batch):
    inputs, samples = make_batch(follows=[[False]])
    losses, features = mite(inputs, samples, mode="loss_with_features")
    assert list(losses) == ["d0.loss_cls", "d0.loss_bbox", "loss_cls", "loss_bbox"]
    assert features.bev_BQC.shape == (1, 12, 16) and features.bev_mask_BNQD.shape == (1, 6, 12, 1)
    assert [level.shape[1:3] for level in features.image] == [(6, 16)] * 3
    assert features.logits_LBKC.shape == (2, 1, 12, 10) and features.code_LBKD.shape == (2, 1, 12, 10)
    assert not features.bev_mask_BNQD.requires_grad and features.bev_BQC.requires_grad


@torch.no_grad()
def test_the_mask_says_which_camera_sees_a_querys_decoded_centre(mite, make_batch):
    inputs, samples = make_batch(follows=[[False]])
    features = mite(inputs, samples, mode="features")
    matrices, centres = samples[0].metainfo["frames"][0]["lidar2img"], features.code_LBKD[-1, 0][:, [0, 1, 4]]
    for camera in range(6):
        for query in range(12):
            x, y, depth, _ = (matrices[camera] @ torch.tensor([*centres[query].tolist(), 1.0])).tolist()
            seen = depth > 1e-5 and 0 < x / max(depth, 1e-5) / 96 < 1 and 0 < y / max(depth, 1e-5) / 64 < 1
            assert bool(features.bev_mask_BNQD[0, camera, query, 0]) == seen
    assert 0 < features.bev_mask_BNQD.float().mean() < 1
