"""Which layer's output is which layer's input, found by watching a forward pass: what equalisation may rescale.

A layer is *linked* to the one before where all it receives is the other's output after functions that are positively
homogeneous per channel, ``f(s x) = s f(x)`` for ``s > 0``: none, ReLU, pooling (Nagel et al., ICCV 2019, section 4.1).
A *pair* may be rescaled: nothing but layers linked to its first member reads that member's output. As for batch norm,
nothing is guessed from names; what happens inside a custom kernel a watcher cannot see, so a model may *state* pairs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from torch import nn

from qdbev.quantization.equalisation.links import Link, LinkWatch, watched
from qdbev.quantization.layers.quantized import QuantizedLayer


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
        carried: path of a module -> the layers whose output it returned, or what is homogeneous in that.
    """

    pairs: tuple[Pair, ...]
    refused: dict[str, str]
    links: dict[str, Link]
    carried: dict[str, frozenset[str]]

    def changed_by(self, pairs: Iterable[Pair]) -> set[str]:
        """Return the paths of the modules whose outputs are others when these pairs are rescaled."""
        firsts = {pair.first for pair in pairs}
        return firsts | {path for path, layers in self.carried.items() if layers & firsts}


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
    watch = watched(model, example_call, norms=norms)
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
    for path in watch.attention:
        if reason := watch.reason_against_attention(path):
            refused[path] = reason
        else:
            pairs.append(Pair(path, (f"{path}.out_proj",)))
    pairs += [Pair(first, (second,)) for first, second in vouched]
    links = {path: link for path in watch.received if (link := watch.link_of(path)) is not None}
    for first, second in vouched:
        watch.carry_between(first, second)
    carried = {path: frozenset(layers) for path, layers in watch.carried.items()}
    return Connections(pairs=tuple(pairs), refused=refused, links=links, carried=carried)


def _checked(stated: Iterable[tuple[str, str]], *, watch: LinkWatch) -> list[tuple[str, str]]:
    """Return the stated pairs whose layers ran; ValueError where one is no layer or is stated twice."""
    pairs = list(stated)
    for path in (path for pair in pairs for path in pair):
        if path not in watch.axes:
            raise ValueError(f"a stated pair names {path}, which is no convolution or linear layer of the model")
    for members in zip(*pairs, strict=True):
        if twice := [path for path, count in Counter(members).items() if count > 1]:
            raise ValueError(f"{twice[0]} is in two stated pairs")
    ran = [pair for pair in pairs if pair[0] in watch.produced and pair[1] in watch.received]
    return [pair for pair in ran if not watch.unfit.keys() & set(pair)]
