"""Moments of what a layer's weights are multiplied with, gathered call by call: mean, second moment and covariance.

The variance of an input that hardly varies is a small difference of large numbers, ``E[x^2] - E[x]^2``. So products are
summed in float32 where that is as good, and in float64 for inputs that lie far from zero against what they vary, or are
so large or so small that float32 cannot hold their squares. What varies less than float32 resolves is constant.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

STEADY = 1e-4  # a variance below this share of the mean square is not left to float32
CONSTANT = 1e-10  # below this share it is rounding of float32 and no variance
SMALLEST, LARGEST = 1e-30, 1e30  # mean squares whose products float32 holds


def _zero() -> Tensor:
    return torch.zeros((), dtype=torch.float64)


@dataclass
class ProductSum:
    """The sum of ``y^T x`` over calls, (O, I), float64.

    Attributes:
        plain_OI: with the products of each call taken in float32.
        exact_OI: the same with columns in float64 that float32 does not resolve in a call; None if there was none.
    """

    plain_OI: Tensor = field(default_factory=_zero)
    exact_OI: Tensor | None = None

    def add(self, y_NO: Tensor, x_NI: Tensor) -> None:
        """Take in samples."""
        products_OI, before_OI = (y_NO.T @ x_NI).double(), self.plain_OI.to(x_NI.device)
        self.plain_OI = before_OI + products_OI
        hard_I = _hard_columns(x_NI)
        hard_O = hard_I if y_NO is x_NI else _hard_columns(y_NO)
        if not bool(hard_I.any() | hard_O.any()):
            self.exact_OI = None if self.exact_OI is None else self.exact_OI + products_OI
            return
        products_OI[hard_O] = y_NO[:, hard_O].double().T @ x_NI.double()
        products_OI[:, hard_I] = y_NO.double().T @ x_NI[:, hard_I].double()
        self.exact_OI = (before_OI if self.exact_OI is None else self.exact_OI) + products_OI

    def of(self, *, hard_O: Tensor, hard_I: Tensor) -> Tensor:
        """The sum, exact in the rows and columns that are hard over all calls."""
        if self.exact_OI is None:
            return self.plain_OI
        return torch.where(hard_O[:, None] | hard_I, self.exact_OI, self.plain_OI)


@dataclass
class InputMean:
    """Mean of what a layer's weight is multiplied with, summed in float64."""

    count: int = 0
    total_I: Tensor = field(default_factory=_zero)

    def add(self, x_NI: Tensor) -> None:
        """Take in samples."""
        self.count += len(x_NI)
        self.total_I = self.total_I.to(x_NI.device) + x_NI.sum(0, dtype=torch.float64)

    @property
    def mean(self) -> Tensor:
        """E[x], (I,)."""
        return self.total_I / self.count


@dataclass
class InputMoments(InputMean):
    """Mean and covariance of what a layer's weight is multiplied with, summed in float64.

    >>> moments = InputMoments()
    >>> moments.add(torch.tensor([[4096.0, 2.0], [4097.0, 2.0]]))
    >>> moments.mean.tolist(), moments.covariance.tolist()
    ([4096.5, 2.0], [[0.25, 0.0], [0.0, 0.0]])
    """

    products_II: ProductSum = field(default_factory=ProductSum)

    def add(self, x_NI: Tensor) -> None:
        """Take in samples."""
        super().add(x_NI)
        self.products_II.add(x_NI, x_NI)

    @property
    def hard(self) -> Tensor:
        """Whether an input's products are summed in float64, (I,)."""
        return hard_moments(self._squares, self.mean)

    @property
    def varies(self) -> Tensor:
        """1 for inputs that vary, 0 for those that are constant as far as float32 goes, (I,)."""
        return (self._squares - self.mean.square() > CONSTANT * self._squares).double()

    @property
    def second(self) -> Tensor:
        """E[x x^T], (I, I)."""
        return self.products_II.of(hard_O=self.hard, hard_I=self.hard) / self.count

    @property
    def covariance(self) -> Tensor:
        """E[x x^T] - E[x] E[x]^T, (I, I); exactly zero for inputs that are constant."""
        covariance = self.second - torch.outer(self.mean, self.mean)
        return covariance * torch.outer(self.varies, self.varies)

    @property
    def _squares(self) -> Tensor:
        """E[x^2], (I,), as exact as it is known."""
        sums = self.products_II
        return (sums.plain_OI if sums.exact_OI is None else sums.exact_OI).diagonal() / self.count


def hard_moments(square: Tensor, mean: Tensor) -> Tensor:
    """Whether float32 does not resolve products of values with this mean square and mean; never of zeros.

    >>> hard_moments(torch.tensor([2.0, 100.001, 1e36, 0.0]), torch.tensor([1.0, 10.0, 0.0, 0.0])).tolist()
    [False, True, True, False]
    """
    resolved = (square - mean.square() >= STEADY * square) & (square > SMALLEST) & (square < LARGEST)
    return ~resolved & (square != 0)


def _hard_columns(x_NI: Tensor) -> Tensor:
    """Whether float32 does not resolve the products of a column, (I,)."""
    square_I = x_NI.square().mean(0)
    vanished_I = (square_I == 0) & (x_NI != 0).any(0)  # squares below what float32 holds
    return hard_moments(square_I, x_NI.mean(0)) | vanished_I


def power_of_two(value: Tensor) -> Tensor:
    """Return the power of two just above a positive number, 1 for zero: numbers divided by it keep all their digits.

    >>> power_of_two(torch.tensor([3.0, 1.0, 0.0, 0.3])).tolist()
    [4.0, 2.0, 1.0, 0.5]
    """
    return torch.ldexp(torch.ones_like(value), torch.frexp(value).exponent)
