"""Smoothing: the scale of an activation's channels moves from a LayerNorm into the linear layers that read it.

SmoothQuant (Xiao et al., *SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models*,
ICML 2023, arXiv 2211.10438, equations 3 and 4): for every channel ``j`` of the norm's output ``x``

    s_j = max|x_j|^alpha / max|W[:, j]|^(1 - alpha)        x_j <- x_j / s_j        W[:, j] <- W[:, j] s_j

The division goes into weight and bias of the norm, so the network computes what it did. It is exact where linear layers
alone read the norm's output, as it is or behind functions that are positively homogeneous per channel, such as a ReLU.
``alpha`` 1 makes the channels of the activation alike, 0 those of the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from qdbev.quantization.equalisation.connections import Pair, find_connections
from qdbev.quantization.equalisation.cross_layer import incoming_range, rescale
from qdbev.quantization.ranges.observers import largest_magnitude

SMALLEST, LARGEST = 1e-5, 1e5  # of a scale


@dataclass(frozen=True)
class Smoothing:
    """What was smoothed.

    Attributes:
        scales: LayerNorm and the layers that read it -> what its channels were divided by, (C,).
        refused: path of any other LayerNorm that ran -> why.
        changed: paths of the modules whose outputs it changes.
    """

    scales: dict[Pair, Tensor]
    refused: dict[str, str]
    changed: frozenset[str] = frozenset()


@torch.no_grad()
def smooth(
    model: nn.Module, *, example_call: Callable[[], object], run: Callable[[], object], alpha: float
) -> Smoothing:
    """Smooth what can be, in place; the model's outputs do not change.

    Args:
        model: A float model in eval mode.
        example_call: Runs it once, through all its branches, to find which layer reads which norm.
        run: Runs the samples that the largest magnitudes are of.
        alpha: How much of the difference between channels moves, 0 to 1; the paper has 0.5 for most models.
    """
    connections = find_connections(model, example_call, norms=True)
    pairs = [pair for pair in connections.pairs if isinstance(model.get_submodule(pair.first), nn.LayerNorm)]
    refused = {
        path: reason
        for path, reason in connections.refused.items()
        if isinstance(model.get_submodule(path), nn.LayerNorm)
    }
    largest = _largest_inputs(model, [second for pair in pairs for second in pair.seconds], run=run)
    scales = {}
    for pair in pairs:
        if missing := [second for second in pair.seconds if second not in largest]:
            refused[pair.first] = f"{missing[0]} did not run on the samples"
            continue
        inputs = torch.stack([largest[second] for second in pair.seconds]).amax(0)
        weights = torch.stack([incoming_range(model, second) for second in pair.seconds]).amax(0)
        scales[pair] = smoothing_scale(inputs, weights, alpha=alpha)
        rescale(model, pair, scales[pair])
    return Smoothing(scales=scales, refused=refused, changed=frozenset(connections.changed_by(scales)))


def smoothing_scale(inputs: Tensor, weights: Tensor, *, alpha: float) -> Tensor:
    """Return ``s`` from the largest magnitudes of each channel, (C,); 1 where one of them is zero.

    >>> smoothing_scale(torch.tensor([16.0, 4.0, 0.0]), torch.tensor([1.0, 4.0, 1.0]), alpha=0.5).tolist()
    [4.0, 1.0, 1.0]
    """
    scale = (inputs**alpha / weights ** (1 - alpha)).clamp(SMALLEST, LARGEST)
    return torch.where((inputs > 0) & (weights > 0), scale, torch.ones_like(scale))


def _largest_inputs(model: nn.Module, paths: Iterable[str], *, run: Callable[[], object]) -> dict[str, Tensor]:
    """Path of a linear layer -> largest magnitude of each channel that came in."""
    largest: dict[str, Tensor] = {}

    def watch(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            x = tree_leaves((args, kwargs))[0]
            of_call = largest_magnitude(x, axis=x.ndim - 1)
            largest[path] = torch.maximum(largest[path], of_call) if path in largest else of_call

        return hook

    handles = [model.get_submodule(path).register_forward_pre_hook(watch(path), with_kwargs=True) for path in paths]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return largest
