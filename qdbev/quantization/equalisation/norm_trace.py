"""Which batch norm follows which convolution, and may be folded into it: found by watching a forward pass.

A pair is foldable where all that is needed is known: both compute as torch's own classes do, the norm's channels are
the layer's outputs, the tensor that the norm receives is the very one that the layer returned, nothing else reads it,
and the layer's parameters are its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.modules.batchnorm import SyncBatchNorm, _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.hooks import RemovableHandle

from qdbev.quantization.equalisation.watching import has_hooks, watching
from qdbev.quantization.planning.policy import classify, is_deformable_conv
from qdbev.quantization.planning.products import arguments_of
from qdbev.quantization.planning.sharing import co_holders

_LIKE_TORCH = "mmdet3d.models.layers.norm"  # its norms compute as torch's in eval mode


class Reception(NamedTuple):
    """One call of a norm.

    Attributes:
        norm: path of the norm.
        key: id of its input, or None where no convolution returned that.
        axes: how many the input has.
    """

    norm: str
    key: int | None
    axes: int


@dataclass
class NormTrace:
    """What one forward pass showed.

    Attributes:
        axes: path of a convolution -> how many axes its output has where the second one is that of its channels.
        unfit: path of a convolution or norm -> why the one takes no norm, or the other is not folded.
        parameters: id of a parameter of a convolution, or of one or a statistic of a norm -> its path.
        produced: id of a tensor that a convolution returned -> path of the convolution.
        reads: id of such a tensor -> number of operations that read it.
        received: calls of norms.
        calls: path of a convolution -> number of calls.
        returned: path of another module -> convolutions whose output it returned as it was.
        running: paths of the convolutions and norms that run now.
        alive: keeps the tensors, so that ids are not reused.
    """

    axes: dict[str, int] = field(default_factory=dict)
    unfit: dict[str, str] = field(default_factory=dict)
    parameters: dict[int, str] = field(default_factory=dict)
    produced: dict[int, str] = field(default_factory=dict)
    reads: dict[int, int] = field(default_factory=dict)
    received: list[Reception] = field(default_factory=list)
    calls: dict[str, int] = field(default_factory=dict)
    returned: dict[str, set[str]] = field(default_factory=dict)
    running: list[str] = field(default_factory=list)
    alive: list[Tensor] = field(default_factory=list)

    def start(self, path: str) -> None:
        """A convolution or a norm starts."""
        self.running.append(path)

    def leave(self, path: str, output: Any) -> None:
        """A convolution ends."""
        self.running.pop()
        self.alive.append(output)
        self.produced[id(output)] = path
        self.reads[id(output)] = 0
        self.calls[path] = self.calls.get(path, 0) + 1

    def enter(self, path: str, value: Any) -> None:
        """A norm starts."""
        key = id(value)  # of anything else it may be that of a tensor to come
        self.received.append(Reception(path, key if key in self.produced else None, value.ndim))

    def pass_on(self, path: str, output: Any) -> None:
        """Another module ends, or a norm."""
        if conv := self.produced.get(id(output)):
            self.returned.setdefault(path, set()).add(conv)

    def read(self, value: Tensor) -> None:
        """An operation reads a tensor."""
        if id(value) in self.produced:
            self.reads[id(value)] += 1
        owner = self.parameters.get(id(value))
        if owner is not None and owner not in self.running:
            self.unfit.setdefault(owner, f"something else reads a parameter of {owner}")

    def show(self, outputs: object) -> None:
        """The example ends: what it returns is read by the outside."""
        for leaf in tree_leaves(outputs):
            for value in (leaf, *getattr(leaf, "__dict__", {}).values()):
                if isinstance(value, Tensor):
                    self.read(value)

    @property
    def matches(self) -> list[tuple[str, str]]:
        """(convolution, norm) for every norm call on a convolution's own output."""
        return [(self.produced[call.key], call.norm) for call in self.received if call.key is not None]

    def reason_to_keep(self, path: str, norm: _BatchNorm) -> str:
        """Return why the norm at ``path`` must stay, or an empty string."""
        calls = [call for call in self.received if call.norm == path]
        keys = [call.key for call in calls if call.key is not None]
        if not calls:
            return "it did not run in the example call"
        if norm.running_mean is None:
            return "it has no running statistics"
        if path in self.unfit:
            return self.unfit[path]
        if len(keys) < len(calls):
            return "its input does not come straight from a convolution or linear layer"
        convs = {self.produced[key] for key in keys}
        if len(convs) > 1:
            return f"it is shared by {', '.join(sorted(convs))}"
        return self._reason_against(next(iter(convs)), calls=calls)

    def _reason_against(self, conv: str, *, calls: list[Reception]) -> str:
        """Return why a convolution cannot take the norm that all these calls are of, or an empty string."""
        if any(self.reads[call.key] != 1 for call in calls if call.key is not None):
            return f"something else reads the output of {conv}"
        if self.calls[conv] != len(calls):
            return f"{conv} also runs without it"
        if conv in self.unfit:
            return self.unfit[conv]
        if any(call.axes != self.axes[conv] for call in calls):
            return f"its channels are on another axis than those of {conv}"
        return ""


def trace_norms(model: nn.Module, example_call: Callable[[], object]) -> NormTrace:
    """Run the example in eval mode with hooks on all modules; modes and hooks are restored."""
    modules = dict(model.named_modules())
    convs = {path: module for path, module in modules.items() if can_take(module)}
    norms = {path: module for path, module in modules.items() if isinstance(module, _BatchNorm)}
    trace = NormTrace(axes={path: 2 if isinstance(conv, nn.Linear) else 4 for path, conv in convs.items()})
    trace.unfit = _unfit(model, convs=convs, norms=norms)
    for path, module in (convs | norms).items():
        tensors = [*module._parameters.values(), *module._buffers.values()]
        trace.parameters |= {id(value): path for value in tensors if value is not None}
    handles: list[RemovableHandle] = []
    for path, module in modules.items():
        if path in convs:
            handles.append(module.register_forward_pre_hook(partial(_starts, trace, path)))
            handles.append(module.register_forward_hook(partial(_leaves, trace, path)))
        else:
            handles.append(module.register_forward_hook(partial(_passes_on, trace, path)))
        if path in norms:
            handles.append(module.register_forward_pre_hook(partial(_enters, trace, path), with_kwargs=True))
            handles.append(module.register_forward_hook(partial(_exits, trace)))
    with watching(model, handles):
        with _CountReads(trace):
            outputs = example_call()
        trace.show(outputs)
    return trace


def can_take(module: nn.Module | None) -> bool:
    """Whether a norm may be folded into such a module: each output channel has weights of its own."""
    layers = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
    return module is not None and (isinstance(module, layers) or is_deformable_conv(module))


class _CountReads(TorchDispatchMode):
    """Notes the operations that take a watched tensor or parameter as an argument."""

    def __init__(self, trace: NormTrace) -> None:
        super().__init__()
        self.trace = trace

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for value in arguments_of(args, kwargs or {}):
            if isinstance(value, Tensor):
                self.trace.read(value)
        return func(*args, **(kwargs or {}))


def _unfit(model: nn.Module, *, convs: Mapping[str, nn.Module], norms: Mapping[str, nn.Module]) -> dict[str, str]:
    """Path of a convolution or norm -> what forbids folding before anything has run."""
    others = co_holders(model)
    reasons = {path: f"{path} shares a parameter with {others[path][0]}" for path in convs if path in others}
    reasons |= {path: reason for path, conv in convs.items() if (reason := _reason_against_conv(conv))}
    return reasons | {path: reason for path, norm in norms.items() if (reason := _reason_against_norm(norm))}


def _reason_against_conv(conv: nn.Module) -> str:
    kind, reason = classify(conv)
    if kind == "float":
        return reason.partition(", which")[0]
    if kind == "deformable_conv" and "bias" not in conv._parameters:
        return f"{type(conv).__name__} adds no bias"
    return f"hooks see what this {type(conv).__name__} gives" if has_hooks(conv) else ""


def _reason_against_norm(norm: nn.Module) -> str:
    cls = type(norm)
    known = cls.forward in (_BatchNorm.forward, SyncBatchNorm.forward) or cls.__module__ == _LIKE_TORCH
    if not known or "forward" in vars(norm):
        return f"{cls.__name__} has its own forward"
    return f"hooks see what this {cls.__name__} gives" if has_hooks(norm) else ""


def _starts(trace: NormTrace, path: str, module: nn.Module, args: Any) -> None:
    trace.start(path)


def _leaves(trace: NormTrace, path: str, module: nn.Module, args: Any, output: Any) -> None:
    trace.leave(path, output)


def _enters(trace: NormTrace, path: str, module: nn.Module, args: Any, kwargs: Any) -> None:
    trace.start(path)
    trace.enter(path, tree_leaves((args, kwargs))[0])


def _exits(trace: NormTrace, module: nn.Module, args: Any, output: Any) -> None:
    trace.running.pop()


def _passes_on(trace: NormTrace, path: str, module: nn.Module, args: Any, output: Any) -> None:
    trace.pass_on(path, output)
