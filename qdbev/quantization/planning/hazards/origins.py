"""Where tensors come from, as far as the rules ask: the layers behind them, and simple algebra; no graph is kept.

Known by the memory that tensors lie in, so a view has the origin of what it is a view of. Layers end the search: what
came into one is not told of what comes out.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

Form = Literal["", "1 - x", "-x", "x / (1 - x)", "log x", "log (1 - x)", "logit x"]

MAX_SOURCES = 8  # of more layers at once, none is told: that is a feature, no coordinate
_KEEPS = frozenset(
    [
        *("clone", "_to_copy", "copy", "lift_fresh", "repeat", "index", "index_select"),
        *("clamp", "clamp_min", "clamp_max", "relu", "nan_to_num"),
    ]
)
"""Operations whose result counts as what they take: copies, choices of places, clipping."""
_CARRIES = frozenset(
    [
        *("add", "sub", "rsub", "mul", "div", "neg", "reciprocal", "bmm", "mm"),
        *("sigmoid", "tanh", "exp", "log", "log1p", "logit", "special_logit"),
        *("gather", "index_put", "slice_scatter", "where", "masked_fill"),
    ]
)
"""Operations whose result is made of the same layers' outputs: changes of coordinates."""
_BLANKS = frozenset(
    [
        *("zeros", "zeros_like", "new_zeros", "empty", "empty_like", "empty_strided", "empty_permuted"),
        *("new_empty", "new_empty_strided", "full", "full_like", "new_full"),
    ]
)
"""Operations that give memory for a kernel to write, past the dispatcher; once a layer has run, perhaps of features."""


@dataclass(frozen=True)
class Mix:
    """An addition or concatenation whose operands' ranges are far apart: the largest magnitudes among them."""

    operation: str
    smallest: float
    largest: float


@dataclass(frozen=True)
class Origin:
    """What is known of a tensor.

    Attributes:
        sources: Paths of the layers whose outputs it is made of.
        learned: Whether a parameter or layer has a part in it, or may have.
        value: Stands for its numbers; clipped, they still count as the same.
        form: What it is of the numbers ``of``.
        of: Stands for those.
        mix: What mixed it last, where nothing else was done since.
    """

    sources: frozenset[str] = frozenset()
    learned: bool = False
    value: object = field(default_factory=object)
    form: Form = ""
    of: object = None
    mix: Mix | None = None


class Origins:
    """The origins of all tensors of a run."""

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        """Knows the parameters; anything else that is asked for comes from outside the model."""
        self._features = False  # whether a layer has run
        self._known: weakref.WeakKeyDictionary[torch.UntypedStorage, Origin] = weakref.WeakKeyDictionary()
        for parameter in parameters:
            self.note(parameter, Origin(learned=True))

    def of(self, tensor: Tensor) -> Origin:
        """Return the origin of a tensor."""
        return self._known.setdefault(tensor.untyped_storage(), Origin())

    def note(self, tensor: Tensor, origin: Origin) -> None:
        """Say where a tensor comes from."""
        self._known[tensor.untyped_storage()] = origin
        self._features |= bool(origin.sources)

    def follow(self, operation: str, *, operands: Sequence[Tensor], scalars: Sequence[Any], result: Tensor) -> None:
        """Note what an operation gave.

        Args:
            operation: Its name; a trailing underscore writes into its first operand.
            operands: Its tensors.
            scalars: Its other positional arguments.
            result: What it gave.
        """
        in_place = operation.endswith("_")
        if not in_place and result.untyped_storage() in self._known:
            return  # a view
        before = [self.of(operand) for operand in operands]
        origin = _origin(operation.rstrip("_"), before, scalars=scalars)
        if operation in _BLANKS:
            origin = Origin(learned=self._features)
        if in_place and result.numel() * result.element_size() < result.untyped_storage().nbytes():
            origin = _joined([before[0], origin])
        self.note(result, origin)


def _origin(operation: str, operands: Sequence[Origin], *, scalars: Sequence[Any]) -> Origin:
    if operation in _KEEPS and operands:
        return operands[-1] if operation == "copy" else operands[0]
    if operation in ("cat", "stack"):
        return _joined(operands)
    counted = operands[:1] if "norm" in operation else operands  # raw numbers that are scaled are raw still
    learned = any(operand.learned for operand in counted)
    if operation not in _CARRIES or not operands:
        return Origin(learned=learned)
    form, of = _form(operation, operands, scalars=scalars)
    return Origin(_sources(operands), learned, form=form, of=of)


def _joined(operands: Sequence[Origin]) -> Origin:
    """Several side by side: logits where all are."""
    logits = bool(operands) and all(operand.form == "logit x" for operand in operands)
    learned = any(operand.learned for operand in operands)
    return Origin(_sources(operands), learned, form="logit x" if logits else "")


def _sources(operands: Iterable[Origin]) -> frozenset[str]:
    sources = frozenset[str]().union(*(operand.sources for operand in operands))
    return sources if len(sources) <= MAX_SOURCES else frozenset()


def _form(operation: str, operands: Sequence[Origin], *, scalars: Sequence[Any]) -> tuple[Form, object]:
    """What a result is of numbers known before: the steps on the ways to log(x / (1 - x))."""
    x = operands[0]
    if len(operands) == 2:
        return _of_two(operation, *operands)
    if operation == "rsub" and list(scalars[:1]) == [1]:
        return "1 - x", x.value
    if operation in ("logit", "special_logit"):
        return "logit x", x.value
    steps: dict[tuple[str, Form], tuple[Form, object]] = {
        ("neg", x.form): ("-x", x.value),
        ("log1p", "-x"): ("log (1 - x)", x.of),
        ("log", x.form): ("log x", x.value),
        ("log", "1 - x"): ("log (1 - x)", x.of),
        ("log", "x / (1 - x)"): ("logit x", x.of),
    }
    return steps.get((operation, x.form), ("", None))


def _of_two(operation: str, first: Origin, second: Origin) -> tuple[Form, object]:
    if operation == "div" and second.form == "1 - x" and second.of is first.value:
        return "x / (1 - x)", first.value
    if operation == "sub" and (first.form, second.form) == ("log x", "log (1 - x)") and first.of is second.of:
        return "logit x", first.of
    return "", None
