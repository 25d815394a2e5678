"""Running an example to watch it: in eval mode, without gradients, with hooks that are gone afterwards."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle


@contextmanager
def watching(model: nn.Module, handles: Iterable[RemovableHandle]) -> Iterator[None]:
    """Hold a model in eval mode, without gradients; then its modes are restored and the hooks removed."""
    was_training = {module: module.training for module in model.modules()}
    hooks = list(handles)
    try:
        model.eval()
        with torch.no_grad():
            yield
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in was_training.items():
            module.training = mode


def has_hooks(module: nn.Module) -> bool:
    """Whether somebody else sees, or changes, what a module receives or gives."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(hooks)
