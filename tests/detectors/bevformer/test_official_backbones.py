"""Backbone and neck of tiny, small and base against a ResNet, DCNv2 and FPN written out from the state dict's names.

Sources: He et al. 2016 (ResNet; "caffe" strides in the first 1x1 of a bottleneck), Zhu et al. 2019 (modulated
deformable convolution, equation 1), Lin et al. 2017 (FPN); BEVFormer's public configurations for the numbers.
"""

from __future__ import annotations

import re
from functools import cache

import pytest
import torch
import torch.nn.functional as F

import profiles
from qdbev.detectors.bevformer import build_bevformer

HEIGHT, WIDTH, CAMERAS = 64, 96, 2
BLOCKS = {"tiny": (3, 4, 6, 3), "small": (3, 4, 23, 3), "base": (3, 4, 23, 3)}
CAFFE = {"tiny": False, "small": True, "base": True}
DEFORMABLE = {"tiny": (), "small": (3, 4), "base": (3, 4)}  # layer3 and layer4, every block
OUTPUTS = {"tiny": (4,), "small": (4,), "base": (2, 3, 4)}
LEVELS = {"tiny": 1, "small": 1, "base": 4}


@cache
def built(name):
    """The detector of the built-in profile, with few cells, and with every tensor of image encoding drawn."""
    words = ["model.bev.rows=6", "model.bev.columns=6", "model.encoder.layers=1", "model.decoder.layers=1"]
    model = build_bevformer(**profiles.load("float", model=name, overrides=words).model.arguments())
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for key, value in [*model.img_backbone.state_dict().items(), *model.img_neck.state_dict().items()]:
            if not value.is_floating_point():
                continue
            noise = torch.randn(value.shape, generator=generator)
            if key.endswith("running_var"):
                value.copy_(1 + 0.3 * noise.abs())
            elif "conv_offset" in key:
                value.copy_(0.05 * noise)
            elif value.dim() == 1:
                value.copy_(("weight" in key) + 0.1 * noise)
            else:
                value.copy_(noise * value[0].numel() ** -0.5)
    return model


def normed(x, state, name):
    mean, var, weight, bias = (state[f"{name}.{each}"] for each in ("running_mean", "running_var", "weight", "bias"))
    scale = weight / (var + 1e-5).sqrt()
    return x * scale[:, None, None] + (bias - mean * scale)[:, None, None]


def deformable(x, state, name):
    """3x3, stride 1, padding 1: each tap looks where its offset says, times its mask."""
    found = F.conv2d(x, state[f"{name}.conv_offset.weight"], state[f"{name}.conv_offset.bias"], padding=1)
    assert found.shape[1] == 27
    assert 0.2 < float(found[:, :18].abs().mean()) < 5  # offsets of a pixel or so: larger ones are chaotic
    height, width = x.shape[2:]
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    total = 0
    for tap in range(9):
        y = rows + tap // 3 - 1 + found[:, 2 * tap]
        x_ = columns + tap % 3 - 1 + found[:, 2 * tap + 1]
        grid = torch.stack([2 * x_ / (width - 1) - 1, 2 * y / (height - 1) - 1], -1)
        seen = F.grid_sample(x, grid, align_corners=True) * found[:, 18 + tap, None].sigmoid()
        total = total + torch.einsum("bchw,oc->bohw", seen, state[f"{name}.weight"][:, :, tap // 3, tap % 3])
    return total


def backbone(x, state, name):
    x = F.relu(normed(F.conv2d(x, state["conv1.weight"], stride=2, padding=3), state, "bn1"))
    x, maps = F.max_pool2d(x, 3, stride=2, padding=1), []
    for stage, count in enumerate(BLOCKS[name], start=1):
        for block in range(count):
            at, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            first, second = (stride, 1) if CAFFE[name] else (1, stride)
            y = F.relu(normed(F.conv2d(x, state[f"{at}.conv1.weight"], stride=first), state, f"{at}.bn1"))
            if stage in DEFORMABLE[name]:
                y = deformable(y, state, f"{at}.conv2")
            else:
                y = F.conv2d(y, state[f"{at}.conv2.weight"], stride=second, padding=1)
            y = F.relu(normed(y, state, f"{at}.bn2"))
            y = normed(F.conv2d(y, state[f"{at}.conv3.weight"]), state, f"{at}.bn3")
            if block == 0:
                x = F.conv2d(x, state[f"{at}.downsample.0.weight"], stride=stride)
                x = normed(x, state, f"{at}.downsample.1")
            x = F.relu(x + y)
        maps.append(x)
    return [maps[stage - 1] for stage in OUTPUTS[name]]


def neck(maps, state, name):
    def conv(x, at, **options):
        return F.conv2d(x, state[f"{at}.conv.weight"], state[f"{at}.conv.bias"], **options)

    laterals = [conv(each, f"lateral_convs.{index}") for index, each in enumerate(maps)]
    for index in range(len(laterals) - 1, 0, -1):
        size = laterals[index - 1].shape[2:]
        laterals[index - 1] = laterals[index - 1] + F.interpolate(laterals[index], size=size, mode="nearest")
    levels = [conv(each, f"fpn_convs.{index}", padding=1) for index, each in enumerate(laterals)]
    while len(levels) < LEVELS[name]:
        levels.append(conv(levels[-1], f"fpn_convs.{len(levels)}", stride=2, padding=1))
    return levels


@pytest.mark.parametrize("name", BLOCKS)
@torch.no_grad()
def test_image_features_are_those_written_out(name):
    model = built(name)
    images = torch.randn(1, CAMERAS, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(4))
    expected = neck(backbone(images[0], model.img_backbone.state_dict(), name), model.img_neck.state_dict(), name)
    for mode in (False, True):  # norms stay in evaluation in training too
        found = model.train(mode).extract_feat(images)
        assert [tuple(level.shape[2:]) for level in found] == [tuple(level.shape[1:]) for level in expected]
        for level, wanted in zip(found, expected, strict=True):
            assert wanted.std() > 1e-3
            torch.testing.assert_close(level[0], wanted, atol=2e-4 * float(wanted.abs().max()), rtol=0)


@pytest.mark.parametrize("name", BLOCKS)
def test_the_stem_the_first_stage_and_all_norms_are_frozen(name):
    model = built(name).train()
    frozen = re.compile(r"(conv1|bn1|layer1)\.|.*\bbn\d\.|.*downsample\.1\.")
    for key, parameter in model.img_backbone.named_parameters():
        assert parameter.requires_grad != bool(frozen.match(key)), key
    assert all(parameter.requires_grad for parameter in model.img_neck.parameters())
