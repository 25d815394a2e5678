"""Arrays of numpy in a pickle, read without numpy's own code: bytes, a shape and a kind of number become a tensor."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

_KINDS = frozenset(
    {*("f2", "f4", "f8"), *("i1", "i2", "i4", "i8"), *("u1", "u2", "u4", "u8"), "b1"},
)


class LeftOut:
    """Stands where an object would be, and keeps nothing of it."""

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


class Kind:
    """Stands for a ``numpy.dtype``."""

    def __init__(self, name: Any = "", *_: Any) -> None:
        self.name = str(name)
        self.order: Literal["<", ">", "|", "="] = "="

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">", "|", "="):
            self.order = state[1]


class Array:
    """Stands for a ``numpy.ndarray``: what ``_reconstruct`` gives, filled by its state."""

    def __init__(self, *_: Any) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def tensor(self) -> Tensor | None:
        """The numbers as a tensor; None where it holds anything else than plain numbers, whole."""
        match self.state:
            case (int(), tuple(shape), Kind() as kind, bool(columns_first), bytes(data)) if kind.name in _KINDS:
                pass
            case _:
                return None
        dtype = np.dtype(kind.name).newbyteorder(kind.order)
        if not all(isinstance(side, int) and side >= 0 for side in shape):
            return None
        if len(data) != math.prod(shape) * dtype.itemsize:
            return None
        array = np.frombuffer(data, dtype=dtype).reshape(shape, order="F" if columns_first else "C")
        native = array.astype(dtype.newbyteorder("="))
        if native.dtype.kind == "u" and native.dtype.itemsize > 1:
            native = native.astype(np.int64)
        return torch.from_numpy(np.ascontiguousarray(native).reshape(shape))


_CORES = ("core", "_core")
STANDINS: list[tuple[type, str]] = [
    (LeftOut, "builtins.getattr"),
    (LeftOut, "mmengine.logging.history_buffer.HistoryBuffer"),
    (LeftOut, "numpy.ndarray"),
    (Kind, "numpy.dtype"),
    *((Array, f"numpy.{core}.multiarray._reconstruct") for core in _CORES),
    *((LeftOut, f"numpy.{core}.multiarray.scalar") for core in _CORES),
]
"""What numpy's arrays and mmengine's training log are pickled with, and what stands for each; none of it is run."""


def with_tensors(content: Any) -> Any:
    """The same dictionaries and lists, each array in them as a tensor."""
    if isinstance(content, Array):
        tensor = content.tensor()
        return content if tensor is None else tensor
    if isinstance(content, dict):
        return {name: with_tensors(value) for name, value in content.items()}
    if type(content) in (list, tuple):
        return type(content)(with_tensors(value) for value in content)
    return content
