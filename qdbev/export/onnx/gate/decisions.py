"""What a traced graph would get wrong without a word: code that looks at the numbers of a tensor and decides by them.

A trace holds what was done once. Numbers that leave torch, to be compared, counted or multiplied elsewhere, are
constants in it from then on.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_LEAVES: dict[Any, str] = {
    getattr(Tensor, name): f"Tensor.{name}"
    for name in ("item", "tolist", "numpy", "__array__", "__bool__", "__int__", "__float__", "__index__", "equal")
} | {torch.equal: "torch.equal", torch.allclose: "torch.allclose", torch.is_nonzero: "torch.is_nonzero"}


_OURS = "qdbev."  # it looks at numbers to be quick, and not while it is traced


class _Watch(TorchFunctionMode):
    """Within, numbers that leave torch raise."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _LEAVES and not sys._getframe(1).f_globals["__name__"].startswith(_OURS):
            raise ValueError(
                f"the detector looks at numbers of its tensors ({_LEAVES[func]}) and goes on by what it sees, but a "
                "graph does the same for every image"
            )
        return func(*args, **(kwargs or {}))


def refuse_decisions(run: Callable[[], object]) -> None:
    """Run what would be traced, and refuse it where numbers of its tensors leave torch.

    Raises:
        ValueError: They do; saying how.
    """
    with _Watch():
        run()
