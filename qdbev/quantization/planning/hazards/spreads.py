"""Ranges of tensors: least and largest number, what they were over several runs, how far apart two are."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeGuard

import torch
from torch import Tensor


@dataclass
class Range:
    """Least and largest number."""

    low: float = math.inf
    high: float = -math.inf

    def widen(self, other: Range) -> None:
        """Take in another one."""
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)

    @property
    def largest(self) -> float:
        """Largest magnitude."""
        return max(abs(self.low), abs(self.high))

    @property
    def width(self) -> float:
        """From the least to the largest."""
        return self.high - self.low

    def step(self, bits: int) -> float:
        """Distance of two neighbours of a symmetric grid of so many bits; an unsigned one where nothing is negative.

        >>> Range(-3.5, 1.0).step(4), Range(0.0, 3.0).step(4)
        (0.5, 0.2)
        """
        return self.largest / (2**bits - 1 if self.low >= 0 else 2 ** (bits - 1) - 1)


def range_of(tensor: Tensor) -> Range:
    """Return the range of a tensor of floats; NaN where it holds one, an empty range where it is empty."""
    if not tensor.numel():
        return Range()
    low, high = tensor.detach().aminmax()
    return Range(low.item(), high.item())


def magnitudes(tensor: Tensor) -> Range:
    """Return the smallest and the largest magnitude."""
    return range_of(tensor.detach().abs())


def measurable(tensor: object) -> TypeGuard[Tensor]:
    """Whether something is a tensor of floats whose numbers lie in memory, one after the other."""
    if not isinstance(tensor, Tensor) or tensor.is_meta:
        return False
    return tensor.is_floating_point() and tensor.layout == torch.strided
