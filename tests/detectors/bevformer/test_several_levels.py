"""What tiny does not have: several image levels, deformable convolutions, checkpointed backbones; small and base do."""

from __future__ import annotations

import math

import pytest
import torch

from qdbev.detectors.bevformer.frames.geometry import visibility
from qdbev.detectors.bevformer.layers.spatial_cross_attention import SpatialCrossAttention

SMALL_LIKE = {
    "backbone_depth": 50,
    "backbone_style": "caffe",
    "backbone_stages": 4,
    "backbone_dcn_stages": (False, False, True, True),
    "backbone_frozen_stages": 1,
    "backbone_norm_frozen": True,
    "backbone_out_indices": (3,),
    "backbone_with_checkpointing": True,
    "neck_in_channels": (256,),
    "neck_outputs": 1,
    "rotation_centre_px": (100.0, 100.0),
    "rotation_nearest": True,
    "spatial_points": 8,
    "encoder_layers": 3,
}
BASE_LIKE = SMALL_LIKE | {
    "backbone_out_indices": (1, 2, 3),
    "backbone_with_checkpointing": False,
    "neck_in_channels": (64, 128, 256),
    "neck_outputs": 4,
    "neck_extra_convs": True,
}
LIKE = {"small": SMALL_LIKE, "base": BASE_LIKE}


def drawn(model):
    """Norms that are not the identity, and offsets of deformable convolutions that are not zero."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
            torch.nn.init.normal_(module.running_mean, std=0.2)
    for name, parameter in model.named_parameters():
        if "conv_offset" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def bilinear(image_HWC, x, y):
    """One sample at pixel (x, y), where (0, 0) is the middle of the first pixel; zero outside."""
    left, top, total = math.floor(x), math.floor(y), torch.zeros(image_HWC.shape[2])
    for row, column in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
        if 0 <= row < image_HWC.shape[0] and 0 <= column < image_HWC.shape[1]:
            total += (1 - abs(y - row)) * (1 - abs(x - column)) * image_HWC[row, column]
    return total


@torch.no_grad()
def test_spatial_cross_attention_over_four_levels_is_the_loop():
    """Every cell, camera, head, level and point one after the other, as bevformer_spec.md describes them."""
    torch.manual_seed(0)
    heads, levels, points, heights, channels = 2, 4, 8, 4, 8
    shapes, cells, cameras = [(6, 9), (3, 5), (2, 3), (1, 2)], 5, 3
    attention = SpatialCrossAttention(
        channels=channels, heads=heads, levels=levels, points=points, heights=heights, dropout=0.0
    )
    inner = attention.deformable_attention
    for layer in (inner.sampling_offsets, inner.attention_weights):
        torch.nn.init.normal_(layer.weight, std=0.5)
    torch.nn.init.normal_(inner.value_proj.bias)
    query = torch.randn(1, cells, channels)
    tokens = torch.randn(1, cameras, sum(height * width for height, width in shapes), channels)
    uv = torch.rand(1, cameras, cells, heights, 2) * 1.6 - 0.3
    mask = torch.rand(1, cameras, cells, heights) < 0.3
    mask[:, :, 0] = False  # a cell that no camera sees
    mask[:, :, 1] = True
    found = attention(query, tokens_BNSC=tokens, level_shapes=shapes, seen=visibility(uv, mask_BNQD=mask))

    offsets = inner.sampling_offsets(query).view(cells, heads, levels, points, 2)
    weights = inner.attention_weights(query).view(cells, heads, levels * points).softmax(-1)
    value = inner.value_proj(tokens)[0]
    total = torch.zeros(cells, channels)
    for cell in range(cells):
        hits = [camera for camera in range(cameras) if bool(mask[0, camera, cell].any())]
        for camera in hits:
            maps = value[camera].split([height * width for height, width in shapes])
            for head in range(heads):
                part = slice(head * channels // heads, (head + 1) * channels // heads)
                for level, (height, width) in enumerate(shapes):
                    image = maps[level].view(height, width, channels)[..., part]
                    for point in range(points):
                        u, v = uv[0, camera, cell, point % heights].tolist()
                        right, down = offsets[cell, head, level, point].tolist()
                        sample = bilinear(image, u * width + right - 0.5, v * height + down - 0.5)
                        total[cell, part] += weights[cell, head, level * points + point] * sample
        total[cell] /= max(len(hits), 1)
    torch.testing.assert_close(found[0], query[0] + attention.output_proj(total), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", LIKE)
@torch.no_grad()
def test_a_batch_of_two_is_two_singles(name, make_model, make_batch):
    model = drawn(make_model(**LIKE[name])).eval()
    inputs, samples = make_batch(follows=[[False, True, True], [False, False, True]])
    both = model(inputs, samples, mode="features")
    decoded = model(inputs, samples)
    assert len(both.image) == LIKE[name]["neck_outputs"]
    for sample in range(2):
        one = {"img": inputs["img"][sample : sample + 1]}, [samples[sample]]
        alone, boxes = model(*one, mode="features"), model(*one)
        for level, own in zip(both.image, alone.image, strict=True):
            torch.testing.assert_close(level[sample], own[0], atol=5e-5, rtol=0)
        torch.testing.assert_close(both.bev_BQC[sample], alone.bev_BQC[0], atol=5e-5, rtol=0)
        assert torch.equal(both.bev_mask_BNQD[sample], alone.bev_mask_BNQD[0])
        torch.testing.assert_close(decoded.logits_LBKC[:, sample], boxes.logits_LBKC[:, 0], atol=1e-4, rtol=0)
        torch.testing.assert_close(decoded.code_LBK10[:, sample], boxes.code_LBK10[:, 0], atol=1e-3, rtol=0)
    assert not torch.allclose(both.bev_BQC[0], both.bev_BQC[1], atol=1e-2)


def test_checkpointing_changes_no_loss_and_no_gradient(make_model, make_batch):
    results = []
    batch = make_batch(follows=[[False, True]])
    for checkpointing in (False, True):
        model = make_model(**SMALL_LIKE | {"backbone_with_checkpointing": checkpointing, "dropout": 0.0})
        torch.manual_seed(1)
        losses = drawn(model).train()(*batch, mode="loss")
        sum(losses.values()).backward()
        gradients = {name: one.grad for name, one in model.named_parameters() if one.grad is not None}
        results.append((losses, gradients))
    (losses, gradients), (again, others) = results
    assert gradients.keys() == others.keys() and any("layer4.0.conv2.conv_offset" in name for name in gradients)
    assert all(torch.allclose(losses[name], again[name], rtol=1e-5) for name in losses)
    for name, one in gradients.items():
        torch.testing.assert_close(others[name], one, atol=1e-5 + 1e-4 * float(one.abs().max()), rtol=0)


def test_every_level_and_its_embedding_get_a_gradient(make_model, make_batch):
    model = drawn(make_model(**BASE_LIKE)).train()
    losses = model(*make_batch(follows=[[False]]), mode="loss")
    sum(losses.values()).backward()
    transformer = model.pts_bbox_head.transformer
    assert (transformer.level_embeds.grad.abs().sum(dim=1) > 0).all()
    for level in range(4):
        assert model.img_neck.fpn_convs[level].conv.weight.grad.abs().sum() > 0
