"""Folding batch norm into the convolution before it, found by watching a forward pass.

In eval mode batch norm is ``y = gamma (x - mean) / sqrt(var + eps) + beta``, so with ``f = gamma / sqrt(var + eps)``

    weight <- weight f   (per output channel),   bias <- (bias - mean) f + beta

gives the same output without it. The output of the folded convolution then has mean ``beta`` and standard deviation
``|gamma|`` over the data the norm has seen, which is what data-free quantization starts from. Which norm follows which
convolution is not guessed from names: see ``qdbev.quantization.equalisation.norm_trace``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from qdbev.quantization.equalisation.norm_trace import can_take, trace_norms
from qdbev.quantization.planning.output_channels import as_held, outputs_first, turned_groups


class ChannelStatistics(NamedTuple):
    """Mean and standard deviation of a layer's output per channel, as its batch norm knew them; float64, (C,) each."""

    mean: Tensor
    std: Tensor


@dataclass(frozen=True)
class Folding:
    """What was folded.

    Attributes:
        pairs: (path of the convolution, path of the batch norm), in the order they ran.
        unfolded: path of a batch norm that stays -> why.
        statistics: path of a convolution -> statistics of its output after folding; not in an artifact.
        changed: paths of modules whose outputs it changes: the convolutions, and what returns theirs as they are.
    """

    pairs: tuple[tuple[str, str], ...]
    unfolded: dict[str, str]
    statistics: dict[str, ChannelStatistics] = field(default_factory=dict, compare=False)
    changed: frozenset[str] = field(default=frozenset(), compare=False)


def fold_batchnorm(model: nn.Module, example_call: Callable[[], object]) -> Folding:
    """Fold every batch norm of ``model`` that can be folded, in place; outputs in eval mode do not change.

    Args:
        model: Any float model.
        example_call: Runs the model once on any fitting input, through all its branches.

    Returns:
        The pairs, for ``apply_folding``, the norms that stay with the reason, and the statistics.
    """
    folding = find_pairs(model, example_call)
    modules = dict(model.named_modules())
    with torch.no_grad():
        for conv, norm in folding.pairs:
            folding.statistics[conv] = _fold(modules[conv], modules[norm])
    _replace_norms(model, [norm for _, norm in folding.pairs])
    return folding


def apply_folding(model: nn.Module, pairs: Iterable[tuple[str, str]]) -> None:
    """Make the structure of a folded model without its numbers, so that a folded state can be loaded strictly.

    Args:
        model: The same model, freshly built.
        pairs: ``Folding.pairs`` of the model that was folded.

    Raises:
        ValueError: a path that is not there, or not what it should be.
    """
    pairs, modules = list(pairs), dict(model.named_modules())
    for conv, norm in pairs:
        if not isinstance(modules.get(norm), _BatchNorm) or not can_take(modules.get(conv)):
            raise ValueError(f"cannot fold {norm} into {conv}: the model has no such batch norm and convolution")
        _give_bias(modules[conv])
    _replace_norms(model, [norm for _, norm in pairs])


def find_pairs(model: nn.Module, example_call: Callable[[], object]) -> Folding:
    """Return what ``fold_batchnorm`` would do, changing nothing."""
    trace = trace_norms(model, example_call)
    norms = [(path, module) for path, module in model.named_modules() if isinstance(module, _BatchNorm)]
    unfolded = {path: reason for path, norm in norms if (reason := trace.reason_to_keep(path, norm))}
    pairs = tuple(pair for pair in dict.fromkeys(trace.matches) if pair[1] not in unfolded)
    folded = {conv for conv, _ in pairs}
    wrappers = {path for path, convs in trace.returned.items() if convs & folded}
    return Folding(pairs=pairs, unfolded=unfolded, changed=frozenset(folded | wrappers))


def _fold(conv: nn.Module, norm: nn.Module) -> ChannelStatistics:
    """Fold exactly, in float64; return the statistics of the convolution's output from now on."""
    assert isinstance(norm, _BatchNorm) and norm.running_mean is not None and norm.running_var is not None
    _give_bias(conv)
    weight, bias = conv.get_parameter("weight"), conv.get_parameter("bias")
    variance = norm.running_var.double()
    factor = (variance + norm.eps).rsqrt()
    if norm.weight is not None:
        factor = factor * norm.weight.double()
    shift = torch.zeros_like(factor) if norm.bias is None else norm.bias.double()
    new_bias = (bias.double() - norm.running_mean.double()) * factor + shift
    turned = turned_groups(conv)
    rows = outputs_first(weight.double(), turned=turned) * factor.view(-1, *[1] * (weight.ndim - 1))
    weight.copy_(as_held(rows, turned=turned))
    bias.copy_(new_bias)
    return ChannelStatistics(mean=shift, std=variance.sqrt() * factor.abs())


def _give_bias(conv: nn.Module) -> None:
    """Add a zero bias, trainable where the weight is."""
    if conv._parameters.get("bias") is None:
        weight = conv.get_parameter("weight")
        channels = len(outputs_first(weight, turned=turned_groups(conv)))
        conv.bias = nn.Parameter(weight.new_zeros(channels), requires_grad=weight.requires_grad)


def _replace_norms(model: nn.Module, paths: Iterable[str]) -> None:
    """Put an Identity in the place of each norm, under every name it has."""
    modules = dict(model.named_modules())
    gone = {id(modules[path]) for path in paths}
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child is not None and id(child) in gone:
                parent._modules[name] = nn.Identity().train(child.training)
