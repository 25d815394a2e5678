"""Which layer's output is which layer's input, found by watching a forward pass: what equalisation may rescale.

A layer is *linked* to the one before where all it receives is the other's output after functions that are positively
homogeneous per channel, ``f(s x) = s f(x)`` for ``s > 0``: none, ReLU, pooling (Nagel et al., ICCV 2019, section 4.1).
A *pair* may be rescaled: nothing but layers linked to its first member reads that member's output. As for batch norm,
nothing is guessed from names; what happens inside a custom kernel a watcher cannot see, so a model may *state* pairs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.hooks import RemovableHandle
from torch.utils.weak import WeakTensorKeyDictionary

from qdbev.quantization.equalisation.watching import watching
from qdbev.quantization.layers.quantized import QuantizedLayer
from qdbev.quantization.planning.policy import classify

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
_CHANNEL_AXES = {"conv2d": 1, "deformable_conv": 1, "linear": -1}


class Link(NamedTuple):
    """Where a layer's input comes from.

    Attributes:
        first: path of the layer that makes it.
        between: functions between the two, in order: ``relu``, ``leaky_relu``, ``max_pool``, ``avg_pool``.
    """

    first: str
    between: tuple[str, ...]


class Pair(NamedTuple):
    """Output channels of one layer that are input channels of others, and nothing else.

    Attributes:
        first: path of the layer; of an attention module its projection of the values is meant.
        seconds: paths of the layers that read it, usually one.
    """

    first: str
    seconds: tuple[str, ...]


@dataclass(frozen=True)
class Connections:
    """What one forward pass showed.

    Attributes:
        pairs: what may be rescaled, in the order the first members ran, then those inside attention and those stated.
        refused: path of a layer that is first in no pair -> why.
        links: path of a layer -> where its input comes from, also where that is no pair.
    """

    pairs: tuple[Pair, ...]
    refused: dict[str, str]
    links: dict[str, Link]


def find_connections(
    model: nn.Module,
    example_call: Callable[[], object],
    *,
    stated: Iterable[tuple[str, str]] = (),
    norms: bool = False,
) -> Connections:
    """Find the pairs of a model, changing nothing.

    Args:
        model: A float model whose batch norms are folded: one that is left stands between layers like anything else.
        example_call: Runs the model once on any fitting input, through all its branches; a tensor among what it
            returns counts as read by the outside.
        stated: (first, second) that the model vouches for: each channel goes from the output of the one to the input
            of the other by weighted sums alone, and nowhere else.
        norms: Whether a LayerNorm with weights may be first in a pair: its output can be divided as a layer's can.

    Raises:
        ValueError: the model is quantized already, or a stated pair does not fit it.
    """
    if any(isinstance(module, QuantizedLayer) for module in model.modules()):
        raise ValueError("the model is quantized already; connections are those of the float model")
    watch = _watch(model, example_call, norms=norms)
    vouched = _checked(stated, watch=watch)
    by_path = dict(vouched)
    pairs, refused = [], {}
    for path in watch.produced:
        if path in by_path:
            continue
        if reason := watch.reason_against(path, taken=set(by_path.values())):
            refused[path] = reason
        else:
            pairs.append(Pair(path, tuple(watch.readers[path])))
    pairs += [Pair(path, (f"{path}.out_proj",)) for path in watch.attention]
    pairs += [Pair(first, (second,)) for first, second in vouched]
    links = {path: link for path in watch.received if (link := watch.link_of(path)) is not None}
    return Connections(pairs=tuple(pairs), refused=refused, links=links)


@dataclass
class _Watch:
    """The record of a forward pass.

    Attributes:
        axes: path of a layer -> the axis of its channels.
        shared: paths of the layers whose weight is another's too.
        origin: tensor -> the link a layer that reads it has; weakly held.
        produced: paths of the layers that returned something, in order.
        readers: path of a layer -> paths of the layers that read its output.
        strangers: path of a layer -> what else reads its output.
        received: path of a layer -> the link of each input it got, None where that is no layer's.
        attention: paths of the attention modules that ran.
        depth: how many layers are running now, one inside the other.
    """

    axes: dict[str, int] = field(default_factory=dict)
    shared: set[str] = field(default_factory=set)
    origin: WeakTensorKeyDictionary = field(default_factory=WeakTensorKeyDictionary)
    produced: dict[str, None] = field(default_factory=dict)
    readers: dict[str, dict[str, None]] = field(default_factory=dict)
    strangers: dict[str, dict[str, None]] = field(default_factory=dict)
    received: dict[str, list[Link | None]] = field(default_factory=dict)
    attention: dict[str, None] = field(default_factory=dict)
    depth: int = 0

    def link(self, value: object) -> Link | None:
        """Where a tensor comes from."""
        return self.origin.get(value) if isinstance(value, Tensor) else None

    def enter(self, path: str, inputs: list[object]) -> None:
        """A layer starts: the first tensor is its input, any other has another use."""
        self.depth += 1
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
        self.produced[path] = None
        self.readers.setdefault(path, {})
        self.strangers.setdefault(path, {})
        if isinstance(output, Tensor):
            self.origin[output] = Link(path, ())

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
            if other in self.shared:
                return f"{other} shares its weight with another layer"
        for second in readers:
            if second in taken:
                return f"{second} is stated to read another layer"
            if {link and link.first for link in self.received[second]} != {path}:
                return f"{second} also reads something else"
            if self.axes[second] != self.axes[path]:
                return f"{second} has its channels on another axis"
        return ""


class _FollowTensors(TorchDispatchMode):
    """Carries the origin of tensors through homogeneous functions and notes whatever else reads them."""

    def __init__(self, watch: _Watch) -> None:
        super().__init__()
        self.watch = watch

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        read = [value for value in tree_leaves((args, kwargs or {})) if self.watch.link(value) is not None]
        result = func(*args, **(kwargs or {}))
        if not read or self.watch.depth:  # what a layer does with its input is its own
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


def _watch(model: nn.Module, example_call: Callable[[], object], *, norms: bool) -> _Watch:
    """Run the example in eval mode with hooks on every layer; modes and hooks are restored."""
    watch = _Watch()
    owners = Counter(id(value) for module in model.modules() for value in module._parameters.values())
    handles: list[RemovableHandle] = []
    for path, module in model.named_modules():
        kind = classify(module)[0]
        if kind == "attention":
            handles.append(module.register_forward_pre_hook(partial(_attends, watch, path)))
            continue
        is_norm = norms and _is_scaling_norm(module)
        if kind not in _CHANNEL_AXES and not is_norm:
            continue
        watch.axes[path] = -1 if is_norm else _CHANNEL_AXES[kind]
        if owners[id(module._parameters["weight"])] > 1:
            watch.shared.add(path)
        enters = _enters_norm if is_norm else _enters
        handles.append(module.register_forward_pre_hook(partial(enters, watch, path), with_kwargs=True))
        handles.append(module.register_forward_hook(partial(_leaves, watch, path)))
    with watching(model, handles):
        with _FollowTensors(watch):
            outputs = example_call()
        watch.show(outputs)
    return watch


def _enters(watch: _Watch, path: str, module: nn.Module, args: Any, kwargs: Any) -> None:
    watch.enter(path, tree_leaves((args, kwargs)))


def _enters_norm(watch: _Watch, path: str, module: nn.Module, args: Any, kwargs: Any) -> None:
    watch.enter_norm(tree_leaves((args, kwargs)))


def _leaves(watch: _Watch, path: str, module: nn.Module, args: Any, output: Any) -> None:
    watch.leave(path, output)


def _attends(watch: _Watch, path: str, module: nn.Module, args: Any) -> None:
    watch.attention[path] = None


def _is_scaling_norm(module: nn.Module) -> bool:
    """Whether it is a LayerNorm over the last axis with a weight per channel."""
    if not isinstance(module, nn.LayerNorm) or type(module).forward is not nn.LayerNorm.forward:
        return False
    return module._parameters["weight"] is not None and len(module.normalized_shape) == 1


def _checked(stated: Iterable[tuple[str, str]], *, watch: _Watch) -> list[tuple[str, str]]:
    """Return the stated pairs whose layers ran; ValueError where one is no layer or is stated twice."""
    pairs = list(stated)
    for path in (path for pair in pairs for path in pair):
        if path not in watch.axes:
            raise ValueError(f"a stated pair names {path}, which is no convolution or linear layer of the model")
    for members in zip(*pairs, strict=True):
        if twice := [path for path, count in Counter(members).items() if count > 1]:
            raise ValueError(f"{twice[0]} is in two stated pairs")
    return [pair for pair in pairs if pair[0] in watch.produced and pair[1] in watch.received]
