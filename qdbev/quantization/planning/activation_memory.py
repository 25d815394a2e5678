"""Activation memory of a forward pass: the bytes of all tensors that are alive at once, parameters aside.

Counted as operations make tensors and their storages die, so it works on the meta device, where nothing is allocated.
What a kernel allocates and frees inside itself is not seen, nor what oneDNN packs in a layout of its own: a layer's
weight, for as long as it is multiplied.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@dataclass(frozen=True)
class ActivationMemory:
    """Bytes of one forward pass.

    Attributes:
        peak_bytes: most that was alive at one time.
        kept_bytes: what is alive after it: the result, and with gradients what the backward pass waits for.
    """

    peak_bytes: int
    kept_bytes: int


def activation_memory(model: nn.Module, forward: Callable[[], object]) -> ActivationMemory:
    """Count the bytes of the tensors that a forward pass makes.

    Args:
        model: Its parameters and buffers, and views of them, are not counted.
        forward: Runs it and returns what the caller would hold; it decides about gradients.

    >>> layer = nn.Linear(4, 8, device="meta")
    >>> with torch.no_grad():  # the input, and then the output too, of 4-byte floats
    ...     activation_memory(layer, lambda: layer(torch.empty(1, 4, device="meta")))
    ActivationMemory(peak_bytes=48, kept_bytes=32)
    """
    counter = _LiveStorages([*model.parameters(), *model.buffers()])
    with counter:
        result = forward()
    live_bytes = counter.live_bytes
    del result
    return ActivationMemory(peak_bytes=counter.peak_bytes, kept_bytes=live_bytes)


class _LiveStorages(TorchDispatchMode):
    """Adds every storage that an operation returns, and takes it off when the last tensor on it is gone."""

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()
        self.live_bytes = self.peak_bytes = 0
        self._known = weakref.WeakSet(tensor.untyped_storage() for tensor in known)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and not tensor.is_mkldnn:
                self._see(tensor.untyped_storage())
        return result

    def _see(self, storage: torch.UntypedStorage) -> None:
        if storage in self._known:
            return
        self._known.add(storage)
        size = storage.nbytes()
        self.live_bytes += size
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        weakref.finalize(storage, self._gone, size)

    def _gone(self, size: int) -> None:
        self.live_bytes -= size
