"""What a traced graph would get wrong without a word: code that looks at the numbers of a tensor and decides by them.

A trace holds what was done once. Numbers that leave torch, to be compared, counted or multiplied elsewhere, are
constants in it from then on; so are shapes that numbers decide, where a loop counts them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_OF_BOTH = ("equal", "allclose", "is_nonzero", "nonzero", "argwhere", "masked_select")
_OF_TENSORS = ("item", "tolist", "numpy", "__array__", "__bool__", "__int__", "__float__", "__index__")
_LEAVES: dict[Any, str] = {
    **{getattr(torch, name): f"torch.{name}" for name in _OF_BOTH},
    **{getattr(Tensor, name): f"Tensor.{name}" for name in (*_OF_BOTH, *_OF_TENSORS)},
}
_OURS = "qdbev."  # it looks at numbers to be quick, and not while it is traced


class _Watch(TorchFunctionMode):
    """Within, numbers that leave torch raise."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        how = "a mask as index" if func is Tensor.__getitem__ and _masks(args[1]) else _LEAVES.get(func, "")
        if how and not sys._getframe(1).f_globals["__name__"].startswith(_OURS):
            raise ValueError(
                f"the detector looks at numbers of its tensors ({how}) and goes on by what it sees, but a graph does "
                "the same for every image"
            )
        return func(*args, **(kwargs or {}))


def _masks(index: Any) -> bool:
    """Whether numbers say how many are taken."""
    parts = index if isinstance(index, tuple) else (index,)
    return any(isinstance(part, Tensor) and part.dtype == torch.bool for part in parts)


def refuse_decisions(run: Callable[[], object]) -> None:
    """Run what would be traced, and refuse it where numbers of its tensors leave torch.

    Raises:
        ValueError: They do; saying how.
    """
    with _Watch():
        run()
