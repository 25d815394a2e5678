"""The mean squared error of a layer's outputs as a quadratic form of its weights, from moments of inputs and outputs.

Shapes: N samples, I inputs of one output (channels times kernel), O output channels.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from qdbev.quantization.rounding.moments import InputMoments, ProductSum, hard_moments


class Quadratic(NamedTuple):
    """``E = v - 2 W c + W H W^T`` of every output.

    Attributes:
        moment_II: ``H``.
        cross_OI: ``c``.
        power_O: ``v``.
    """

    moment_II: Tensor
    cross_OI: Tensor
    power_O: Tensor

    def of_same_inputs(self, weight_OI: Tensor) -> Quadratic:
        """The form with what ``weight_OI`` makes of the same inputs as the output that is wanted."""
        cross_OI = weight_OI.double() @ self.moment_II
        return Quadratic(self.moment_II, cross_OI, (cross_OI * weight_OI).sum(1))

    def errors(self, weight_OI: Tensor) -> Tensor:
        """``E`` of each output, (O,), float64."""
        weight = weight_OI.double()
        return self.power_O + ((weight @ self.moment_II - 2 * self.cross_OI) * weight).sum(1)


@dataclass
class ReconstructionMoments:
    """Moments of what a weight is multiplied with, and of what should come out, summed in float64.

    >>> moments = ReconstructionMoments()
    >>> moments.add(torch.tensor([[1.0], [3.0]]), torch.tensor([[5.0], [1.0]]))
    >>> [value.tolist() for value in moments.quadratic(centred=True)]  # y = 7 - 2 x
    [[[1.0]], [[-2.0]], [4.0]]
    """

    inputs: InputMoments = field(default_factory=InputMoments)
    total_O: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))
    squares_O: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))
    products_OI: ProductSum = field(default_factory=ProductSum)

    def add(self, x_NI: Tensor, y_NO: Tensor) -> None:
        """Take in samples."""
        self.inputs.add(x_NI)
        self.total_O = self.total_O.to(y_NO.device) + y_NO.sum(0, dtype=torch.float64)
        self.squares_O = self.squares_O.to(y_NO.device) + y_NO.double().square().sum(0)
        self.products_OI.add(y_NO, x_NI)

    @property
    def mean_O(self) -> Tensor:
        """E[y], (O,)."""
        return self.total_O / self.inputs.count

    def quadratic(self, *, centred: bool) -> Quadratic:
        """The error as a form of the weights: of covariances, or of moments where there is no bias."""
        count = self.inputs.count
        power_O = self.squares_O / count
        hard_O = hard_moments(power_O, self.mean_O)
        cross_OI = self.products_OI.of(hard_O=hard_O, hard_I=self.inputs.hard) / count
        if not centred:
            return Quadratic(self.inputs.second, cross_OI, power_O)
        cross_OI = (cross_OI - torch.outer(self.mean_O, self.inputs.mean)) * self.inputs.varies
        return Quadratic(self.inputs.covariance, cross_OI, power_O - self.mean_O.square())
