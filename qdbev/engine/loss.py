"""What is minimised: the loss as a module that accelerate can wrap, and mmdet's rule of summing losses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

Terms = Mapping[str, float | Tensor]
Loss = Callable[[Any, int], tuple[Tensor, Terms]]


class LossModule(nn.Module):
    """A model with its loss; called as ``loss_module(batch, step)``.

    Mixed precision and DDP wrap this module, so the model itself is never wrapped or patched, and the loss may call it
    as it likes (several times, under no_grad, part by part).
    """

    def __init__(self, model: nn.Module, *, loss: Loss) -> None:
        super().__init__()
        self.model = model
        object.__setattr__(self, "_loss", loss)  # a loss that is itself a module is not trained

    def forward(self, batch: Any, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Give the loss and its terms (detached) for a batch.

        Raises:
            ValueError: The loss is not one number with a gradient.
        """
        loss, terms = self._loss(batch, step)  # type: ignore[operator]
        if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
            raise ValueError(f"the loss at step {step} is {_describe(loss)}: expected one number with a gradient")
        return loss.reshape(()), {name: _detached(term, like=loss) for name, term in terms.items()}


def sum_losses(losses: Mapping[str, Tensor | Sequence[Tensor]]) -> tuple[Tensor, dict[str, Tensor]]:
    """Add up a detector's losses by mmengine's rule: entries whose name contains "loss" count, others are only shown.

    >>> total, terms = sum_losses({"loss_cls": torch.tensor([1.0, 3.0]), "accuracy": torch.tensor(0.5)})
    >>> float(total), {name: float(term) for name, term in terms.items()}
    (2.0, {'loss_cls': 2.0, 'accuracy': 0.5})

    Args:
        losses: Tensors, averaged each, or lists of tensors, averaged each and added.

    Returns:
        The sum, and every entry as one number.

    Raises:
        ValueError: No entry's name contains "loss".
    """
    terms = {name: _one_number(value) for name, value in losses.items()}
    counted = [term for name, term in terms.items() if "loss" in name]
    if not counted:
        raise ValueError(f"no entry called loss among {', '.join(terms) or 'none'}: nothing to minimise")
    return torch.stack(counted).sum(), terms


@contextmanager
def frozen_batchnorm(model: nn.Module, *, freeze: bool) -> Iterator[None]:
    """Hold every batch norm in evaluation mode.

    A hook before each call does it, because temporal detectors switch the whole model to eval and back to train
    within one forward pass.

    Args:
        model: The model.
        freeze: False does nothing.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)] if freeze else []
    hooks = [norm.register_forward_pre_hook(_set_eval) for norm in norms]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _set_eval(module: nn.Module, _inputs: Any) -> None:
    module.training = False


def _one_number(value: Tensor | Sequence[Tensor]) -> Tensor:
    if isinstance(value, Tensor):
        return value.mean()
    return torch.stack([entry.mean() for entry in value]).sum()


def _detached(term: float | Tensor, *, like: Tensor) -> Tensor:
    if isinstance(term, Tensor):
        return term.detach().double().reshape(())
    return torch.tensor(term, dtype=torch.float64, device=like.device)


def _describe(loss: object) -> str:
    if isinstance(loss, Tensor):
        return f"a tensor of shape {tuple(loss.shape)}, requires_grad={loss.requires_grad}"
    return f"a {type(loss).__name__}"
