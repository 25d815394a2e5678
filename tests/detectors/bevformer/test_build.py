"""Every variant is numbers: official names and shapes, and nano's size."""

from __future__ import annotations

import json
from functools import cache

import pytest
import torch

from qdbev.detectors.bevformer import build_bevformer


@pytest.fixture(scope="module")
def built(variants):
    """A variant, built once: look, do not change."""
    return cache(lambda name: build_bevformer(**variants[name]))


@pytest.mark.parametrize("name", ["tiny", "small", "base"])
def test_state_dict_has_the_official_names_and_shapes(name, built, shared):
    official = json.loads((shared / "reference" / f"bevformer_keys_{name}.json").read_text())
    state = built(name).state_dict()
    assert {key: list(tensor.shape) for key, tensor in state.items()} == official


@pytest.mark.parametrize("name", ["tiny", "small", "base"])
def test_trainable_parameters_are_the_official_ones(name, built, shared):
    # counted on the official code, section 10 of the specification
    trainable = {"tiny": 33_245_627, "small": 59_135_865, "base": 68_707_193}
    assert sum(each.numel() for each in built(name).parameters() if each.requires_grad) == trainable[name]


def test_official_norms_stay_frozen_in_training(built):
    model = built("tiny").train()
    norms = [module for module in model.img_backbone.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert norms and not any(norm.training for norm in norms)


def test_nano_is_small_and_trains_its_norms(variants):
    model = build_bevformer(**variants["nano"]).train()
    assert sum(each.numel() for each in model.parameters()) < 1_300_000
    assert model.img_backbone.bn1.training
    assert all(each.requires_grad for name, each in model.named_parameters() if not name.endswith("code_weights"))


def test_build_prints_nothing(mite, capfd):
    build_bevformer(**mite)
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


def test_the_same_seed_gives_the_same_weights(mite):
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(build_bevformer(**mite).state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_mistakes_are_named(mite):
    with pytest.raises(ValueError, match="name different numbers of maps"):
        build_bevformer(**(mite | {"neck_in_channels": (16,)}))
    with pytest.raises(ValueError, match=r"backbone_stem is 'deep', expected one of \['standard', 'patch'\]"):
        build_bevformer(**(mite | {"backbone_stem": "deep"}))
    with pytest.raises(ValueError, match="code_weights has 2 numbers, expected 10"):
        build_bevformer(**(mite | {"code_weights": (1.0, 2.0)}))
