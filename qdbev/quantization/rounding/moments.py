"""Moments of what a layer's weights are multiplied with, gathered call by call: mean, second moment and covariance."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class InputMoments:
    """Mean and covariance of what a layer's weight is multiplied with, summed in float64.

    >>> moments = InputMoments()
    >>> moments.add(torch.tensor([[1.0, 2.0], [3.0, 2.0]]))
    >>> moments.mean.tolist(), moments.covariance.tolist()
    ([2.0, 2.0], [[1.0, 0.0], [0.0, 0.0]])
    """

    count: int = 0
    total_I: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))
    products_II: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))

    def add(self, x_NI: Tensor) -> None:
        """Take in samples."""
        self.count += len(x_NI)
        self.total_I = self.total_I.to(x_NI.device) + x_NI.sum(0, dtype=torch.float64)
        self.products_II = self.products_II.to(x_NI.device) + (x_NI.T @ x_NI).double()

    @property
    def mean(self) -> Tensor:
        """E[x], (I,)."""
        return self.total_I / self.count

    @property
    def second(self) -> Tensor:
        """E[x x^T], (I, I)."""
        return self.products_II / self.count

    @property
    def covariance(self) -> Tensor:
        """E[x x^T] - E[x] E[x]^T, (I, I)."""
        return self.second - torch.outer(self.mean, self.mean)
