"""Products of matrices that PyTorch runs, seen one by one: what code multiplies without a layer of its own.

Whatever runs inside a layer that is counted by its formula is the layer's. What a product reads of a parameter tells
whose it is; one of two activations belongs to the module that runs it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.hooks import RemovableHandle

_MATRICES = {"mm": 0, "bmm": 0, "mv": 0, "dot": 0, "addmm": 1, "baddbmm": 1, "addmv": 1, "linear": 0}
_ATTENTION = ("_scaled_dot_product_", "_flash_attention", "_efficient_attention")


def arguments_of(args: Iterable[Any], kwargs: Mapping[str, Any]) -> Iterator[Any]:
    """Yield the arguments of an operation, those of lists singly: lists of torch's operations are no deeper.

    A watcher asks this of every operation of a run, so it is no walk through trees of any kind.

    >>> [*arguments_of([1, [2, 3]], {"out": 4})]
    [1, 2, 3, 4]
    """
    for value in (*args, *kwargs.values()):
        if isinstance(value, list | tuple):
            yield from value
        else:
            yield value


class WatchProducts(TorchDispatchMode):
    """Tells of each product: path, whether a parameter takes part, multiply-accumulates.

    Attributes:
        unseen: path of a module that ran -> its parameters of two axes or more that no operation has read.
    """

    def __init__(
        self, model: nn.Module, *, counted: Collection[str], on_product: Callable[[str, bool, int], object]
    ) -> None:
        """Watches nothing yet.

        Args:
            model: The model.
            counted: Paths of the modules whose products are counted otherwise.
            on_product: Is told.
        """
        super().__init__()
        self._model, self._counted, self._on_product = model, set(counted), on_product
        self._running: list[str] = []
        self._ran: set[str] = set()
        self._seen: set[int] = set()
        self._owners: dict[int, str] = {}
        for path, module in model.named_modules():
            for value in module._parameters.values():
                if value is not None:
                    self._owners.setdefault(value.untyped_storage()._cdata, path)

    def hooks(self) -> list[RemovableHandle]:
        """Register hooks that follow which module runs."""
        handles = []
        for path, module in self._model.named_modules():
            handles.append(module.register_forward_pre_hook(partial(self._starts, path)))
            handles.append(module.register_forward_hook(self._ends))
        return handles

    @property
    def unseen(self) -> list[str]:
        """Paths of modules that ran and whose weights nothing that can be seen has read."""
        inside = {path for path in self._ran if not any(_is_in(path, counted) for counted in self._counted)}
        modules = dict(self._model.named_modules())
        return [path for path in modules if path in inside and any(map(self._is_unseen, _matrices_of(modules[path])))]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.is_view:  # what reads the view counts
            return result
        tensors = [value for value in arguments_of(args, kwargs or {}) if isinstance(value, Tensor)]
        if any(value.is_nested for value in tensors):  # rows have no shape
            return result
        read = [self._owner(value) for value in tensors]
        macs = _macs(func._schema.name.removeprefix("aten::"), args, result)
        if macs and not any(path in self._counted for path in self._running):
            owner = next((path for path in read if path is not None), None)
            here = self._running[-1] if self._running else ""
            has_weight = owner is not None or func is torch.ops.aten.convolution.default  # its kernel was computed
            self._on_product(here if owner is None else owner, has_weight, macs)
        return result

    def _owner(self, value: Tensor) -> str | None:
        """Path of the module whose parameter a tensor is, or is a view of."""
        memory = value.untyped_storage()._cdata if value.layout is _STRIDED else 0
        if memory in self._owners:
            self._seen.add(memory)
        return self._owners.get(memory)

    def _is_unseen(self, parameter: Tensor) -> bool:
        return parameter.untyped_storage()._cdata not in self._seen

    def _starts(self, path: str, module: nn.Module, args: Any) -> None:
        self._running.append(path)
        self._ran.add(path)

    def _ends(self, module: nn.Module, args: Any, output: Any) -> None:
        self._running.pop()


_STRIDED = Tensor().layout


def _is_in(path: str, outer: str) -> bool:
    return path == outer or path.startswith(f"{outer}.")


def _matrices_of(module: nn.Module) -> list[Tensor]:
    return [value for value in module._parameters.values() if value is not None and value.ndim > 1]


def _macs(name: str, args: Any, result: Any) -> int:
    """Multiply-accumulates of one operation; 0 of what is no product."""
    name = name.partition(".")[0]
    if name in _MATRICES:
        return int(result.numel() * args[_MATRICES[name]].shape[-1])
    if name == "convolution":
        outputs = args[0] if args[6] else result  # transposed: each input reaches the whole kernel
        return int(outputs.numel() * args[1][0].numel())
    if name.startswith(_ATTENTION) and not name.endswith("_backward"):
        query, key, value = args[:3]
        return int(query[..., 0].numel() * key.shape[-2] * (query.shape[-1] + value.shape[-1]))
    return 0
