"""What backward needs of a quantized tensor is made again from the real values instead of being kept.

A layer on quantized tensors would keep them for its backward pass, beside the real values that the quantizer's own
backward pass needs. These real values a float layer keeps as well; quantizing them once more, a few element-wise
operations before a convolution, leaves nothing else to be kept.

An autograd function takes part by setting ``ctx.recompute``, which is called with ``ctx`` and makes the output again
from ``open_saved``. So it is autograd that keeps the real values: it checks their versions, and activation
checkpointing around the layer finds them where it looks. A result without gradient has no ``ctx``: see
``remember``.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

Recompute = Callable[[], Tensor]


def recomputing() -> AbstractContextManager[object]:
    """Let operations inside keep no quantized tensors for their backward pass.

    A compiled graph is left alone: its compiler decides itself what to keep and what to make again.

    >>> class Twice(torch.autograd.Function):
    ...     @staticmethod
    ...     def forward(ctx, x):
    ...         ctx.save_for_backward(x)
    ...         ctx.recompute = lambda ctx: open_saved(ctx)[0] * 2
    ...         return x * 2
    ...
    ...     @staticmethod
    ...     def backward(ctx, gradient):
    ...         return gradient * 2
    >>> x = torch.tensor([3.0], requires_grad=True)
    >>> y = Twice.apply(x)
    >>> with recomputing():
    ...     square = y * y  # keeps how y was made, not y
    >>> square.backward()
    >>> x.grad.tolist()
    [24.0]
    """
    if not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return nullcontext()
    return saved_tensors_hooks(pack, _unpack)


def remember(result: Tensor, *sources: Tensor, recompute: Callable[..., Tensor]) -> Tensor:
    """Return ``result``, having noted that it is ``recompute(*sources)``; for one that no gradient flows through."""
    saved = [_Saved(source, source._version) for source in sources]
    result.recompute = lambda: recompute(*(source.unpack() for source in saved))  # type: ignore[attr-defined]
    return result


def open_saved(ctx: Any) -> tuple[Tensor, ...]:
    """Return ``ctx.saved_tensors``, opened once for a whole backward pass: activation checkpointing asks for that."""
    if getattr(ctx, "opened", None) is None:
        ctx.opened = ctx.saved_tensors
    opened: tuple[Tensor, ...] = ctx.opened
    return opened


def close_saved(ctx: Any) -> tuple[Tensor, ...]:
    """Return ``open_saved`` for the last time in a backward pass: the function's own backward."""
    opened, ctx.opened = open_saved(ctx), None
    return opened


def node_of(tensor: Tensor) -> Any:
    """Return the ``ctx`` of the function that made a tensor, up to its type, and can make it again; else None."""
    node: Any = tensor.grad_fn
    if node is not None and node.name() == "ToCopyBackward0":  # autocast
        node = node.next_functions[0][0]
    return node if hasattr(node, "recompute") else None


class _Saved(NamedTuple):
    """A tensor that is kept as it is. Autograd does not watch the versions of what hooks keep, so it is done here."""

    value: Tensor
    version: int

    def unpack(self) -> Tensor:
        if self.value._version != self.version:
            raise RuntimeError(
                f"a tensor of shape {tuple(self.value.shape)} that backward needs was modified in place: it is at "
                f"version {self.value._version}, expected version {self.version}"
            )
        return self.value


class _Recomputed(NamedTuple):
    """A quantized tensor, or a view of one, that is made again."""

    recompute: Recompute
    dtype: torch.dtype
    size: torch.Size
    stride: tuple[int, ...]
    offset: int
    laid: tuple[int, ...]  # the strides of the whole, in which ``stride`` and ``offset`` count

    def unpack(self) -> Tensor:
        if torch.is_grad_enabled():  # a backward pass that is differentiated itself
            with torch.no_grad():
                return self.unpack()
        whole = self.recompute().to(self.dtype)
        if whole.stride() != self.laid:  # somebody else's hooks have given the real values another layout
            whole = whole.new_empty_strided(whole.shape, self.laid).copy_(whole)
        return whole.as_strided(self.size, self.stride, self.offset)


def pack(tensor: Tensor) -> _Saved | _Recomputed:
    """What is kept of a tensor instead of it; ``unpack()`` gives it back."""
    whole = tensor if tensor._base is None else tensor._base
    recompute = _origin(whole)
    if recompute is None:
        return _Saved(tensor.detach(), tensor._version)
    return _Recomputed(
        recompute, tensor.dtype, tensor.size(), tensor.stride(), int(tensor.storage_offset()), laid=whole.stride()
    )


def _unpack(packed: _Saved | _Recomputed) -> Tensor:
    return packed.unpack()


def _origin(tensor: Tensor) -> Recompute | None:
    """Return how a tensor is made again, up to its type, or None for a tensor that no quantizer made."""
    noted: Recompute | None = getattr(tensor, "recompute", None)
    node = node_of(tensor)
    return noted if noted is not None or node is None else partial(node.recompute, node)
