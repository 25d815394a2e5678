"""The weight of a distillation loss: a number, or set from the first calls to a stated share of the detection loss.

The paper gives none for L_vgd, and with its normalisers the bare loss is about 1e-7: without a weight it does nothing.
Several losses have a weight each, and their state is resumed together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor


class Weight(Protocol):
    """Weighs a distillation loss against the detection loss; part of the resume state."""

    def __call__(self, distillation: Tensor, *, detection: Tensor) -> Tensor:
        """Give the weighted distillation loss."""
        ...

    @property
    def value(self) -> float:
        """The weight now."""
        ...

    def state_tensors(self) -> dict[str, Tensor]:
        """Give the state as tensors."""
        ...

    def load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what ``state_tensors`` gave."""
        ...


class FixedWeight:
    """A weight that is a number."""

    def __init__(self, value: float) -> None:
        if not (math.isfinite(value) and value >= 0.0):
            raise ValueError(f"distillation weight {value}: expected a finite number of at least 0")
        self._value = value

    @property
    def value(self) -> float:
        """The weight."""
        return self._value

    def __call__(self, distillation: Tensor, *, detection: Tensor) -> Tensor:
        """Give the weighted distillation loss."""
        return distillation * self._value

    def state_tensors(self) -> dict[str, Tensor]:
        """Give nothing: there is no state."""
        return {}

    def load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Take nothing back."""


class AutoWeight:
    """A weight such that the weighted loss is ``share`` of the detection loss over the first calls; then it is fixed.

    weight = share * mean(detection) / mean(|distillation|), over the calls so far while it is being set, so that the
    loss counts from the first call on. A call with a value that is not finite, or a distillation loss of 0 is left out.
    With several processes the means are over all of them.

    >>> weight = AutoWeight(share=0.1, steps=2)
    >>> for detection, distillation in [(4.0, 1e-7), (8.0, 3e-7), (80.0, 1e-7)]:
    ...     loss = weight(torch.tensor(distillation), detection=torch.tensor(detection))
    ...     print(f"{weight.value:.3g} {float(loss):.3g}")
    4e+06 0.4
    3e+06 0.9
    3e+06 0.3

    Attributes:
        share: Share of the detection loss.
        steps: Calls it is set from. With gradient accumulation every batch is a call.
    """

    def __init__(self, *, share: float, steps: int) -> None:
        """Describe the weight.

        Raises:
            ValueError: A share that is not positive, or no calls to set it from.
        """
        if not (math.isfinite(share) and share > 0.0) or steps < 1:
            raise ValueError(f"automatic weight of share {share} from {steps} steps: expected share > 0 and steps >= 1")
        self.share = share
        self.steps = steps
        self._calls = 0
        self._detection = 0.0
        self._distillation = 0.0

    @property
    def value(self) -> float:
        """The weight now; 0 before the first call that counts."""
        return self.share * self._detection / self._distillation if self._calls else 0.0

    @property
    def is_set(self) -> bool:
        """True once the weight will not change any more."""
        return self._calls >= self.steps

    def __call__(self, distillation: Tensor, *, detection: Tensor) -> Tensor:
        """Give the weighted distillation loss; the first calls set the weight."""
        if not self.is_set:
            self._take_in(distillation, detection=detection)
        return distillation * self.value

    def state_tensors(self) -> dict[str, Tensor]:
        """Give the sums and their count."""
        return {"sums": torch.tensor([self._detection, self._distillation, self._calls], dtype=torch.float64)}

    def load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what ``state_tensors`` gave."""
        self._detection, self._distillation, calls = tensors["sums"].tolist()
        self._calls = int(calls)

    def _take_in(self, distillation: Tensor, *, detection: Tensor) -> None:
        pair = torch.stack([detection.detach().double().reshape(()), distillation.detach().double().abs().reshape(())])
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(pair)
            pair = pair / torch.distributed.get_world_size()
        mean_detection, mean_distillation = pair.tolist()
        if math.isfinite(mean_detection) and math.isfinite(mean_distillation) and mean_distillation > 0.0:
            self._detection += mean_detection
            self._distillation += mean_distillation
            self._calls += 1


class Weights:
    """Weights by the name of their loss, as one resume state.

    >>> weights = Weights({"vgd": FixedWeight(2.0), "cwd_bev": AutoWeight(share=0.1, steps=2)})
    >>> weights.values, sorted(weights.state_tensors())
    ({'vgd': 2.0, 'cwd_bev': 0.0}, ['cwd_bev.sums'])
    """

    def __init__(self, weights: Mapping[str, Weight]) -> None:
        self._weights = dict(weights)

    @property
    def values(self) -> dict[str, float]:
        """The weights now."""
        return {name: weight.value for name, weight in self._weights.items()}

    def state_tensors(self) -> dict[str, Tensor]:
        """Give the states of all, each under the name of its loss."""
        return {
            f"{name}.{part}": tensor
            for name, weight in self._weights.items()
            for part, tensor in weight.state_tensors().items()
        }

    def load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what ``state_tensors`` gave."""
        for name, weight in self._weights.items():
            prefix = f"{name}."
            weight.load_state_tensors(
                {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
            )
