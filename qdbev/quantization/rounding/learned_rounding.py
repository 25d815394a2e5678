"""Rounding that is learned: each weight goes to the step below or to the one above it (AdaRound, Nagel et al., 2020).

*Up or Down? Adaptive Rounding for Post-Training Quantization* (ICML 2020, arXiv 2004.10568), equations 22 to 24:

    W = S clamp(floor(w / S) + h(V), n, p)        h(V) = clamp(1.2 sigmoid(V) - 0.1, 0, 1)
    regulariser = sum of 1 - |2 h(V) - 1|^beta

``V`` starts where ``W`` is the float weight. ``beta`` falls from 20 to 2, so that the shares ``h`` are free at first
and end at 0 or 1; the first fifth of the steps has no regulariser.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from qdbev.quantization.grid.integers import align_scale, integer_limits
from qdbev.quantization.layers.quantizer import Quantizer

LOWEST, HIGHEST = -0.1, 1.1  # gamma and zeta
WARM_UP = 0.2  # share of the steps
FIRST_BETA, LAST_BETA = 20.0, 2.0
REGULARISER = 100.0  # per weight, where the error by nearest rounding counts as one per weight
RANGE_RATE = 0.1  # learning rate of ranges over that of roundings


class LearnedRounding(nn.Module):
    """The shares ``h(V)`` by which weights are rounded up, as parameters.

    Args:
        weight: Float weights, the output channels first.
        scale: One scale, or one per output channel.
        quantizer: Its bits and limits.

    >>> quantizer = Quantizer(name="toy", bits=4)
    >>> rounding = LearnedRounding(torch.tensor([4.9, -1.1, 40.0]), scale=torch.tensor(2.0), quantizer=quantizer)
    >>> [round(weight, 4) for weight in rounding().tolist()], rounding.rounded().tolist()
    ([4.9, -1.1, 14.0], [4.0, -2.0, 14.0])
    """

    def __init__(self, weight: Tensor, *, scale: Tensor, quantizer: Quantizer) -> None:
        super().__init__()
        self.scale = align_scale(scale.detach(), ndim=weight.ndim, axis=None if scale.numel() == 1 else 0)
        self.low, self.high = integer_limits(quantizer.bits, narrow_range=quantizer.narrow_range)
        steps = weight.detach() / self.scale
        self.floor = steps.floor()
        share = ((steps - self.floor) - LOWEST) / (HIGHEST - LOWEST)
        self.logit = nn.Parameter(share.logit())

    def shares(self) -> Tensor:
        """``h(V)``, 0 for down and 1 for up."""
        return (self.logit.sigmoid() * (HIGHEST - LOWEST) + LOWEST).clamp(0, 1)

    def forward(self) -> Tensor:
        """The weights between their steps, with gradients to ``V``."""
        return (self.floor + self.shares()).clamp(self.low, self.high) * self.scale

    @torch.no_grad()
    def rounded(self) -> Tensor:
        """The weights on their grid: up where the share is a half or more."""
        return (self.floor + (self.shares() >= 0.5)).clamp(self.low, self.high) * self.scale

    def undecided(self, beta: float) -> Tensor:
        """The regulariser: 1 for each share of a half, 0 for each of 0 or 1."""
        return (1 - (2 * self.shares() - 1).abs().pow(beta)).sum()


@dataclass(frozen=True)
class Descent:
    """Gradient steps on roundings, with the regulariser.

    Attributes:
        iterations: How many.
        learning_rate: Adam's, for the parameters behind the shares; input ranges have a tenth of it.
    """

    iterations: int
    learning_rate: float

    def run(
        self,
        roundings: Sequence[LearnedRounding],
        *,
        loss: Callable[[], Tensor],
        ranges: Sequence[nn.Parameter] = (),
    ) -> None:
        """Move roundings, and ranges with them, down a loss.

        Args:
            roundings: What is learned.
            loss: Called once per step, with gradients enabled.
            ranges: Parameters that are learned beside them.
        """
        groups: list[dict[str, Any]] = [{"params": [rounding.logit for rounding in roundings]}]
        if ranges:
            groups.append({"params": list(ranges), "lr": RANGE_RATE * self.learning_rate})
        optimiser = torch.optim.Adam(groups, lr=self.learning_rate)
        for step in range(self.iterations):
            beta = beta_at(step, steps=self.iterations)
            with torch.enable_grad():
                total = loss()
                if beta is not None:
                    total = total + REGULARISER * sum(rounding.undecided(beta) for rounding in roundings)
                optimiser.zero_grad()
                total.backward()
            optimiser.step()


def beta_at(step: int, *, steps: int) -> float | None:
    """The exponent of the regulariser at a step of ``steps``; None while there is none.

    >>> [beta_at(step, steps=100) for step in (19, 20, 60)]
    [None, 20.0, 11.0]
    """
    start = WARM_UP * steps
    if step < start:
        return None
    return FIRST_BETA + (LAST_BETA - FIRST_BETA) * (step - start) / (steps - start)
