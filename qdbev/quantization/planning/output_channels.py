"""Where the output channels of a weight lie: first, but in a transposed convolution, which has them second.

A convolution's weight is (outputs, inputs of a group, kernel), that of a transposed one (inputs, outputs of a group,
kernel): output ``o`` of group ``g`` reads the inputs of the group, which are a range of the first axis. Quantizers see
either with the outputs first, so that one scale belongs to each. ``turned`` is the number of groups of a transposed
convolution, and 0 for every other weight, which stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


def turned_groups(module: nn.Module) -> int:
    """Return ``turned`` of the weights of a module."""
    return module.groups if isinstance(module, nn.ConvTranspose2d) else 0


def by_group(weight: Tensor, *, groups: int, turned: int = 0) -> Tensor:
    """Return a view of a weight: (groups, outputs of a group, inputs of a group, kernel).

    Args:
        weight: As the layer holds it.
        groups: Of the layer.
        turned: See the module; ``groups`` or 0.

    >>> import torch
    >>> by_group(torch.zeros(6, 2, 3, 5), groups=3, turned=3).shape  # 6 inputs, 3 groups of 2 outputs
    torch.Size([3, 2, 2, 3, 5])
    """
    view = weight.unflatten(0, (groups, -1))
    return view.transpose(1, 2) if turned else view


def outputs_first(weight: Tensor, *, turned: int) -> Tensor:
    """Return a weight as (outputs, inputs of a group, kernel): itself, a view, or of several turned groups a copy.

    >>> import torch
    >>> outputs_first(torch.tensor([[1, 2, 3], [4, 5, 6]]), turned=1).tolist()
    [[1, 4], [2, 5], [3, 6]]
    >>> outputs_first(torch.tensor([[1, 2], [3, 4]]), turned=2).tolist()  # each input is a group of its own
    [[1], [2], [3], [4]]
    """
    return by_group(weight, groups=turned, turned=turned).flatten(0, 1) if turned else weight


def rows_shape(shape: Sequence[int], *, turned: int) -> tuple[int, ...]:
    """Return the shape of ``outputs_first`` of a weight of some shape.

    >>> rows_shape((8, 2, 3, 5), turned=2), rows_shape((8, 2, 3, 5), turned=0)
    ((4, 4, 3, 5), (8, 2, 3, 5))
    """
    if not turned:
        return tuple(shape)
    inputs, outputs, *kernel = shape
    return (outputs * turned, inputs // turned, *kernel)


def as_held(rows: Tensor, *, turned: int) -> Tensor:
    """Return a weight as the layer holds it, from one with the outputs first.

    >>> import torch
    >>> as_held(torch.tensor([[1], [2], [3], [4]]), turned=2).tolist()
    [[1, 2], [3, 4]]
    """
    return by_group(rows, groups=turned, turned=turned).flatten(0, 1) if turned else rows
