"""Exponential moving average of a model's weights, with a warm-up of its decay."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def decay_at(update: int, *, decay: float) -> float:
    """Give the decay of the n-th update: min(decay, (1 + n) / (10 + n)), as TensorFlow's moving average warms up.

    >>> [round(decay_at(n, decay=0.9), 3) for n in (0, 8, 1000)]
    [0.1, 0.5, 0.9]
    """
    return min(decay, (1 + update) / (10 + update))


class AverageWeights:
    """Moving average over the floating-point parameters; buffers are taken from the model as they are.

    Attributes:
        decay: Decay after the warm-up, in [0, 1).
        updates: Updates so far.
    """

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"ema_decay={decay}: expected 0 <= ema_decay < 1")
        self.decay = decay
        self.updates = 0
        self._model = model
        self._names = [name for name, parameter in model.named_parameters() if parameter.is_floating_point()]
        self._averages = [parameter.detach().clone() for parameter in self._parameters()]

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the model's present weights."""
        weight = 1.0 - decay_at(self.updates, decay=self.decay)
        torch._foreach_lerp_(self._averages, self._parameters(), weight)
        self.updates += 1

    def tensors(self) -> dict[str, Tensor]:
        """Give the averages by parameter name."""
        return dict(zip(self._names, self._averages, strict=True))

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Put averages back.

        Raises:
            ValueError: The names are not those of the model's parameters.
        """
        if set(tensors) != set(self._names):
            raise ValueError(f"averages of {len(tensors)} parameters do not fit a model of {len(self._names)}")
        for name, average in zip(self._names, self._averages, strict=True):
            average.copy_(tensors[name])

    def model_state(self) -> dict[str, Tensor]:
        """Give a complete state dict: averaged parameters, present buffers; on the CPU, its own memory."""
        parameters = dict(self._model.named_parameters())
        of_parameter = {id(parameters[name]): average for name, average in self.tensors().items()}
        state = self._model.state_dict(keep_vars=True)  # a shared parameter is there under each of its names
        once = {id(value): of_parameter.get(id(value), value).detach().cpu().clone() for value in state.values()}
        return {name: once[id(value)] for name, value in state.items()}

    def _parameters(self) -> list[Tensor]:
        parameters = dict(self._model.named_parameters())
        return [parameters[name].detach() for name in self._names]


@contextmanager
def weights_of(model: nn.Module, *, state: Mapping[str, Tensor]) -> Iterator[nn.Module]:
    """Let a model hold other weights for a while, e.g. the averaged ones during an evaluation.

    Args:
        model: The model; it gets its own weights back, also after an error.
        state: A complete state dict.

    Yields:
        The same model.
    """
    present = {name: value.detach().clone() for name, value in model.state_dict().items()}
    try:
        model.load_state_dict(dict(state), strict=True)
        yield model
    finally:
        model.load_state_dict(present, strict=True)
