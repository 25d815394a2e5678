"""The small networks that tell class and box of an object query; names as in the official checkpoints."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import nn

from qdbev.detectors.boxes.box_code import CODE_SIZE

PRIOR_PROBABILITY = 0.01


def class_branch(channels: int, *, classes: int) -> nn.Sequential:
    """Class logits of a query: twice linear, norm and ReLU, then linear."""
    layers: list[nn.Module] = []
    for _ in range(2):
        layers += [nn.Linear(channels, channels), nn.LayerNorm(channels), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Linear(channels, classes))


def box_branch(channels: int) -> nn.Sequential:
    """Box code of a query: twice linear and ReLU, then linear."""
    layers: list[nn.Module] = []
    for _ in range(2):
        layers += [nn.Linear(channels, channels), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(channels, CODE_SIZE))


def start_classes(branches: Iterable[nn.Module]) -> None:
    """A low prior: every class of every query starts at one percent."""
    for branch in branches:
        last = list(branch.children())[-1]
        assert isinstance(last, nn.Linear)
        nn.init.constant_(last.bias, -math.log((1 - PRIOR_PROBABILITY) / PRIOR_PROBABILITY))


def code_weights_parameter(code_weights: Sequence[float]) -> nn.Parameter:
    """The weights of a box code's numbers in the loss, which official checkpoints hold among the parameters.

    Raises:
        ValueError: another number of them.
    """
    if len(code_weights) != CODE_SIZE:
        raise ValueError(f"code_weights has {len(code_weights)} numbers, expected {CODE_SIZE}, one per box code entry")
    return nn.Parameter(torch.tensor(list(code_weights), dtype=torch.float32), requires_grad=False)
