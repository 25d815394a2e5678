"""Where each layer's input comes from, in one forward pass: tensors are followed through homogeneous functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.hooks import RemovableHandle
from torch.utils.weak import WeakTensorKeyDictionary

from qdbev.quantization.equalisation.watching import has_hooks, watching
from qdbev.quantization.planning.policy import classify
from qdbev.quantization.planning.sharing import co_holders

# Positively homogeneous per channel -> the name of the function; cloning is none.
_HOMOGENEOUS = {
    "aten::relu": "relu",
    "aten::relu_": "relu",
    "aten::leaky_relu": "leaky_relu",
    "aten::leaky_relu_": "leaky_relu",
    "aten::max_pool2d_with_indices": "max_pool",
    "aten::avg_pool2d": "avg_pool",
    "aten::_adaptive_avg_pool2d": "avg_pool",
    "aten::clone": "",
}
_CHANNEL_AXES = {"conv2d": 1, "transposed_conv": 1, "deformable_conv": 1, "linear": -1}


class Link(NamedTuple):
    """Where a layer's input comes from.

    Attributes:
        first: path of the layer that makes it.
        between: functions between the two, in order: ``relu``, ``leaky_relu``, ``max_pool``, ``avg_pool``.
    """

    first: str
    between: tuple[str, ...]


@dataclass
class LinkWatch:
    """The record of a forward pass.

    Attributes:
        axes: path of a layer -> the axis of its channels.
        unfit: path of a layer or attention module -> why it is in no pair.
        origin: tensor -> the link a layer that reads it has; weakly held.
        parameters: id of a parameter of a layer -> path of the layer.
        produced: paths of the layers that returned something, in order.
        readers: path of a layer -> paths of the layers that read its output.
        strangers: path of a layer -> what else reads its output.
        received: path of a layer -> the link of each input it got, None where that is no layer's.
        carried: path of a module -> paths of the layers whose output it returned, as it was or homogeneous in it.
        events: (path, whether it starts) of every layer that starts and every module that ends, in order.
        attention: paths of the attention modules that ran.
        depth: how many layers are running now, one inside the other.
    """

    axes: dict[str, int] = field(default_factory=dict)
    unfit: dict[str, str] = field(default_factory=dict)
    origin: WeakTensorKeyDictionary = field(default_factory=WeakTensorKeyDictionary)
    parameters: dict[int, str] = field(default_factory=dict)
    produced: dict[str, None] = field(default_factory=dict)
    readers: dict[str, dict[str, None]] = field(default_factory=dict)
    strangers: dict[str, dict[str, None]] = field(default_factory=dict)
    received: dict[str, list[Link | None]] = field(default_factory=dict)
    carried: dict[str, set[str]] = field(default_factory=dict)
    events: list[tuple[str, bool]] = field(default_factory=list)
    attention: dict[str, None] = field(default_factory=dict)
    depth: int = 0

    def link(self, value: object) -> Link | None:
        """Where a tensor comes from."""
        return self.origin.get(value) if isinstance(value, Tensor) else None

    def enter(self, path: str, inputs: list[object]) -> None:
        """A layer starts: the first tensor is its input, any other has another use."""
        self.depth += 1
        self.events.append((path, True))
        tensors = [value for value in inputs if isinstance(value, Tensor)]
        for position, tensor in enumerate(tensors):
            link = self.link(tensor)
            if position == 0:
                self.received.setdefault(path, []).append(link)
            if link is not None and position == 0:
                self.readers[link.first][path] = None
            elif link is not None:
                self.strangers[link.first][f"{path} (not as its input)"] = None

    def enter_norm(self, inputs: list[object]) -> None:
        """A norm starts: what comes in does not come out, as it does of a layer."""
        self.depth += 1
        for tensor in inputs:
            if (link := self.link(tensor)) is not None:
                self.strangers[link.first]["native_layer_norm"] = None

    def leave(self, path: str, output: object) -> None:
        """A layer ends."""
        self.depth -= 1
        self.events.append((path, False))
        self.produced[path] = None
        self.readers.setdefault(path, {})
        self.strangers.setdefault(path, {})
        if isinstance(output, Tensor):
            self.origin[output] = Link(path, ())

    def carry(self, path: str, output: object) -> None:
        """Any other module ends."""
        self.events.append((path, False))
        for value in tree_leaves(output):
            if (link := self.link(value)) is not None:
                self.carried.setdefault(path, set()).add(link.first)

    def carry_between(self, first: str, second: str) -> None:
        """Whatever ends after a layer and before another starts may return the one's output, in a form of its own."""
        inside = False
        for path, starts in self.events:
            if (path, starts) in ((first, False), (second, True)):
                inside = path == first
            elif inside and not starts:
                self.carried.setdefault(path, set()).add(first)

    def show(self, outputs: object) -> None:
        """The example ends: what it returns is read by the outside."""
        for value in tree_leaves(outputs):
            if (link := self.link(value)) is not None:
                self.strangers[link.first]["the outside"] = None

    def link_of(self, path: str) -> Link | None:
        """The link of a layer, if all its calls have the same one and the channels are on the same axis."""
        links = set(self.received[path])
        link = links.pop()
        if links or link is None or self.axes[path] != self.axes[link.first]:
            return None
        return link

    def reason_against(self, path: str, *, taken: set[str]) -> str:
        """Return why the layer at ``path`` is first in no pair, or an empty string."""
        readers = self.readers[path]
        if self.strangers[path]:
            names = ", ".join(self.strangers[path])
            return f"{names} reads its output, which is no positively homogeneous function of that tensor alone"
        if not readers:
            return "no layer reads its output"
        for other in (path, *readers):
            if other in self.unfit:
                return self.unfit[other]
        for second in readers:
            if second in taken:
                return f"{second} is stated to read another layer"
            if {link and link.first for link in self.received[second]} != {path}:
                return f"{second} also reads something else"
            if self.axes[second] != self.axes[path]:
                return f"{second} has its channels on another axis"
        return ""

    def reason_against_attention(self, path: str) -> str:
        """Return why the projections inside an attention module are no pair, or an empty string."""
        last = f"{path}.out_proj"
        return self.unfit.get(path) or (f"{last} is also called by itself" if last in self.produced else "")


class _FollowTensors(TorchDispatchMode):
    """Carries the origin of tensors through homogeneous functions and notes whatever else reads them."""

    def __init__(self, watch: LinkWatch) -> None:
        super().__init__()
        self.watch = watch

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        leaves = tree_leaves((args, kwargs or {}))
        read = [value for value in leaves if self.watch.link(value) is not None]
        result = func(*args, **(kwargs or {}))
        if self.watch.depth:  # what a layer does with its input is its own
            return result
        for path in filter(None, (self.watch.parameters.get(id(value)) for value in leaves)):
            self.watch.unfit.setdefault(path, f"something else reads a parameter of {path}")
        if not read:
            return result
        name = func._schema.name
        if name in _HOMOGENEOUS:
            link = self.watch.origin[read[0]]
            output = result[0] if isinstance(result, tuple) else result
            self.watch.origin[output] = Link(link.first, (*link.between, *filter(None, [_HOMOGENEOUS[name]])))
            return result
        for tensor in read:
            self.watch.strangers[self.watch.origin[tensor].first][name.removeprefix("aten::")] = None
            if any(returned.alias_info is not None for returned in func._schema.returns):
                del self.watch.origin[tensor]  # written to, now or later through the view of it
        return result


def watched(model: nn.Module, example_call: Callable[[], object], *, norms: bool) -> LinkWatch:
    """Run the example in eval mode with hooks on every module; modes and hooks are restored."""
    watch = LinkWatch(unfit=_unfit(model))
    handles: list[RemovableHandle] = []
    for path, module in model.named_modules():
        kind = classify(module)[0]
        is_norm = norms and _is_scaling_norm(module)
        if kind == "attention":
            handles.append(module.register_forward_pre_hook(partial(_attends, watch, path)))
        if kind not in _CHANNEL_AXES and not is_norm:
            handles.append(module.register_forward_hook(partial(_carries, watch, path)))
            continue
        watch.parameters |= {id(value): path for value in module._parameters.values() if value is not None}
        watch.axes[path] = -1 if is_norm else _CHANNEL_AXES[kind]
        enters = _enters_norm if is_norm else _enters
        handles.append(module.register_forward_pre_hook(partial(enters, watch, path), with_kwargs=True))
        handles.append(module.register_forward_hook(partial(_leaves, watch, path)))
    with watching(model, handles):
        with _FollowTensors(watch):
            outputs = example_call()
        watch.show(outputs)
    return watch


def _unfit(model: nn.Module) -> dict[str, str]:
    """Path of a module -> why it may not be rescaled, whatever reads its output."""
    hooked = [path for path, module in model.named_modules() if has_hooks(module)]
    reasons = {path: f"hooks see what {path} gives" for path in hooked}
    projections: dict[int, str] = {}
    for path, module in model.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            first = projections.setdefault(id(module.out_proj), path)
            if first != path:
                reasons[path] = reasons[first] = f"{first} and {path} have one out_proj"
    for path in co_holders(model):
        reasons[path] = f"{path} shares its weight with another layer"
        owner = path.rpartition(".")[0]
        if isinstance(model.get_submodule(owner), nn.MultiheadAttention):
            reasons[owner] = reasons[path]
    return reasons


def _enters(watch: LinkWatch, path: str, module: nn.Module, args: Any, kwargs: Any) -> None:
    watch.enter(path, tree_leaves((args, kwargs)))


def _enters_norm(watch: LinkWatch, path: str, module: nn.Module, args: Any, kwargs: Any) -> None:
    watch.enter_norm(tree_leaves((args, kwargs)))


def _leaves(watch: LinkWatch, path: str, module: nn.Module, args: Any, output: Any) -> None:
    watch.leave(path, output)


def _carries(watch: LinkWatch, path: str, module: nn.Module, args: Any, output: Any) -> None:
    watch.carry(path, output)


def _attends(watch: LinkWatch, path: str, module: nn.Module, args: Any) -> None:
    watch.attention[path] = None


def _is_scaling_norm(module: nn.Module) -> bool:
    """Whether it is a LayerNorm over the last axis with a weight per channel."""
    if not isinstance(module, nn.LayerNorm) or type(module).forward is not nn.LayerNorm.forward:
        return False
    return module._parameters["weight"] is not None and len(module.normalized_shape) == 1
