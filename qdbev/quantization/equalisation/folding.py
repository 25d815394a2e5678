"""Folding batch norm into the convolution before it, found by watching a forward pass.

In eval mode batch norm is ``y = gamma (x - mean) / sqrt(var + eps) + beta``, so with ``f = gamma / sqrt(var + eps)``

    weight <- weight f   (per output channel),   bias <- (bias - mean) f + beta

gives the same output without it. The output of the folded convolution then has mean ``beta`` and standard deviation
``|gamma|`` over the data the norm has seen, which is what data-free quantization starts from. Which norm follows which
convolution is not guessed from names: a pair is folded only if the tensor the norm receives is the very tensor the
convolution returned and no other operation reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from qdbev.quantization.equalisation.watching import watching
from qdbev.quantization.planning.policy import is_deformable_conv


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
    """

    pairs: tuple[tuple[str, str], ...]
    unfolded: dict[str, str]
    statistics: dict[str, ChannelStatistics] = field(default_factory=dict, compare=False)


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
        if not isinstance(modules.get(norm), _BatchNorm) or not _can_take(modules.get(conv)):
            raise ValueError(f"cannot fold {norm} into {conv}: the model has no such batch norm and convolution")
        _give_bias(modules[conv])
    _replace_norms(model, [norm for _, norm in pairs])


def find_pairs(model: nn.Module, example_call: Callable[[], object]) -> Folding:
    """Return what ``fold_batchnorm`` would do, changing nothing."""
    trace = _watch(model, example_call)
    norms = [(path, module) for path, module in model.named_modules() if isinstance(module, _BatchNorm)]
    unfolded = {path: reason for path, norm in norms if (reason := trace.reason_to_keep(path, norm))}
    pairs = tuple(pair for pair in dict.fromkeys(trace.matches) if pair[1] not in unfolded)
    return Folding(pairs=pairs, unfolded=unfolded)


@dataclass
class _Trace:
    """What one forward pass showed.

    Attributes:
        produced: id of a tensor that a convolution returned -> path of the convolution.
        reads: id of such a tensor -> number of operations that read it.
        received: (path of a norm, id of its input, or None where no convolution returned that), per call.
        calls: path of a convolution -> number of calls.
        alive: keeps the tensors, so that ids are not reused.
    """

    produced: dict[int, str] = field(default_factory=dict)
    reads: dict[int, int] = field(default_factory=dict)
    received: list[tuple[str, int | None]] = field(default_factory=list)
    calls: dict[str, int] = field(default_factory=dict)
    alive: list[Tensor] = field(default_factory=list)

    def leave(self, path: str, output: Any) -> None:
        """A convolution ends."""
        self.alive.append(output)
        self.produced[id(output)] = path
        self.reads[id(output)] = 0
        self.calls[path] = self.calls.get(path, 0) + 1

    def enter(self, path: str, inputs: Any) -> None:
        """A norm starts."""
        key = id(inputs[0])  # of anything else it may be that of a tensor to come
        self.received.append((path, key if key in self.produced else None))

    @property
    def matches(self) -> list[tuple[str, str]]:
        """(convolution, norm) for every norm call on a convolution's own output."""
        return [(self.produced[key], norm) for norm, key in self.received if key is not None]

    def reason_to_keep(self, path: str, norm: _BatchNorm) -> str:
        """Return why the norm at ``path`` must stay, or an empty string."""
        keys = [key for name, key in self.received if name == path]
        if not keys:
            return "it did not run in the example call"
        if norm.running_mean is None:
            return "it has no running statistics"
        known = [key for key in keys if key is not None]
        if len(known) < len(keys):
            return "its input does not come straight from a convolution or linear layer"
        convs = {self.produced[key] for key in known}
        if len(convs) > 1:
            return f"it is shared by {', '.join(sorted(convs))}"
        if any(self.reads[key] != 1 for key in known):
            return f"something else reads the output of {next(iter(convs))}"
        if self.calls[next(iter(convs))] != len(keys):
            return f"{next(iter(convs))} also runs without it"
        return ""


class _CountReads(TorchDispatchMode):
    """Counts the operations that take a watched tensor as an argument."""

    def __init__(self, trace: _Trace) -> None:
        super().__init__()
        self.trace = trace

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for value in tree_leaves((args, kwargs)):
            if isinstance(value, Tensor) and id(value) in self.trace.produced:
                self.trace.reads[id(value)] += 1
        return func(*args, **(kwargs or {}))


def _watch(model: nn.Module, example_call: Callable[[], object]) -> _Trace:
    """Run the example in eval mode with hooks on convolutions and norms; modes and hooks are restored."""
    trace = _Trace()

    def returns(path: str) -> Callable[..., None]:
        return lambda module, inputs, output: trace.leave(path, output)

    def receives(path: str) -> Callable[..., None]:
        return lambda module, inputs: trace.enter(path, inputs)

    modules = list(model.named_modules())
    handles = [module.register_forward_hook(returns(path)) for path, module in modules if _can_take(module)]
    norms = [(path, module) for path, module in modules if isinstance(module, _BatchNorm)]
    handles += [norm.register_forward_pre_hook(receives(path)) for path, norm in norms]
    with watching(model, handles), _CountReads(trace):
        example_call()
    return trace


def _can_take(module: nn.Module | None) -> bool:
    """Whether a norm can be folded into this module: its output channels are the first axis of its weight."""
    return module is not None and (isinstance(module, (nn.Conv2d, nn.Linear)) or is_deformable_conv(module))


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
    weight.copy_(weight.double() * factor.view(-1, *[1] * (weight.ndim - 1)))
    bias.copy_(new_bias)
    return ChannelStatistics(mean=shift, std=variance.sqrt() * factor.abs())


def _give_bias(conv: nn.Module) -> None:
    """Add a zero bias, trainable where the weight is."""
    if conv._parameters.get("bias") is None:
        weight = conv.get_parameter("weight")
        conv.bias = nn.Parameter(weight.new_zeros(weight.shape[0]), requires_grad=weight.requires_grad)


def _replace_norms(model: nn.Module, paths: Iterable[str]) -> None:
    """Put an Identity in the place of each norm, under every name it has."""
    modules = dict(model.named_modules())
    gone = {id(modules[path]) for path in paths}
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child is not None and id(child) in gone:
                parent._modules[name] = nn.Identity().train(child.training)
