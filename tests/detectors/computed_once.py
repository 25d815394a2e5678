"""What makes official cases cheap: image features that cases share, and maps laid out as gradients are fast."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def computed_once(extract: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Compute features of the same images once; those with gradients serve, detached, where none are wanted."""
    known: list[tuple[Tensor, Tensor]] = []

    def extracted(images: Tensor) -> Tensor:
        wanted = torch.is_grad_enabled()
        for seen, features in known:
            if torch.equal(seen, images) and features.requires_grad >= wanted:
                return features if wanted else features.detach()
        known.append((images, extract(images)))
        return known[-1][1]

    return extracted


def laid_out_by_channels(*modules: nn.Module) -> None:
    """Hand maps to these modules channel by channel: on a CPU, gradients of weights take half of what they took."""

    def contiguous(module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        first = arguments[0]
        maps = first.contiguous() if isinstance(first, Tensor) else tuple(each.contiguous() for each in first)
        return (maps, *arguments[1:])

    for module in modules:
        module.register_forward_pre_hook(contiguous)
