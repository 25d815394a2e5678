"""Which modules hold the same parameter: what must be rewritten for all of them or for none.

A parameter counts as shared where two modules hold it as one object or as views that begin at the same number. One
module under several names holds its parameters alone.
"""

from __future__ import annotations

from collections.abc import Hashable

from torch import Tensor, nn


def memory_of(tensor: Tensor) -> Hashable:
    """Return what two tensors have in common that begin at the same number in memory, on any device."""
    return tensor.untyped_storage()._cdata, tensor.storage_offset()


def co_holders(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """Return the path of each module that holds a parameter which others hold too -> the paths of those.

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    >>> model[2].weight = model[0].weight
    >>> co_holders(model)
    {'0': ('2',), '2': ('0',)}
    """
    holders: dict[Hashable, dict[str, None]] = {}
    for path, module in model.named_modules():
        for value in module._parameters.values():
            if value is not None and value.numel():
                holders.setdefault(memory_of(value), {})[path] = None
    others: dict[str, dict[str, None]] = {}
    for paths in holders.values():
        for path in paths if len(paths) > 1 else ():
            others.setdefault(path, {}).update(dict.fromkeys(other for other in paths if other != path))
    return {path: tuple(found) for path, found in others.items()}
