"""Observers of both ends of a tensor's values, for quantizers with an offset (LSQ+, Bhalgat et al., 2020, section 3.2).

``minmax`` takes the smallest and the largest value; ``mse`` the ends whose quantizer has the least squared error on the
values seen. The grid then runs from end to end: ``S = (high - low) / (p - n)`` and ``beta = low - n S``.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from qdbev.quantization.grid.integers import integer_limits
from qdbev.quantization.ranges.histogram import GrowingHistogram
from qdbev.quantization.ranges.histogram_observers import OF_HISTOGRAM
from qdbev.quantization.ranges.observers import Observer, ObserverRow

_BINS = 4096
_CANDIDATES = 100  # 1 %, 2 % ... 100 % of the way from the mean to an end
_TURNS = 3


def grid_of_bounds(low: Tensor, high: Tensor, *, bits: int, narrow_range: bool = False) -> tuple[Tensor, Tensor]:
    """Return step and offset of the grid whose smallest integer stands for ``low`` and whose largest for ``high``.

    Where both are equal the step is 1, and the smallest integer stands for them.

    Args:
        low: Smallest value.
        high: Largest value.
        bits: Width of the integers.
        narrow_range: Leave out the most negative integer.

    >>> grid_of_bounds(torch.tensor(-1.0), torch.tensor(14.0), bits=4)
    (tensor(1.), tensor(7.))
    """
    first, last = integer_limits(bits, narrow_range=narrow_range)
    scale = (high - low).to(torch.float32) / (last - first)
    scale = torch.where(scale < torch.finfo(torch.float32).tiny, torch.ones_like(scale), scale)
    return scale, low.to(torch.float32) - first * scale


class BoundsObserver(Observer):
    """The smallest and the largest value ever seen."""

    remembers: ClassVar[tuple[str, ...]] = ("_low", "_high")

    def __init__(self) -> None:
        super().__init__(axis=None)
        self._low: Tensor | None = None
        self._high: Tensor | None = None

    def bounds(self) -> tuple[Tensor, Tensor]:
        """Return the ends, float32, shape ().

        Raises:
            ValueError: nothing was seen.
        """
        self.range()
        return self._bounds()

    def _take(self, x: Tensor) -> None:
        low, high = (end.to(torch.float32) for end in x.aminmax())
        self._low = low if self._low is None else torch.minimum(self._low, low)
        self._high = high if self._high is None else torch.maximum(self._high, high)

    def _range(self) -> Tensor:
        low, high = self._extremes()
        return torch.maximum(high, -low)

    def _bounds(self) -> tuple[Tensor, Tensor]:
        return self._extremes()

    def _extremes(self) -> tuple[Tensor, Tensor]:
        assert self._low is not None and self._high is not None
        return self._low, self._high


class MseBoundsObserver(BoundsObserver):
    """The ends of least squared error: the upper one between mean and maximum, then the lower one, a few times over.

    Args:
        bits: Width of the quantizer.
        narrow_range: Of the quantizer.
    """

    remembers = ("_low", "_high", *OF_HISTOGRAM)

    def __init__(self, *, bits: int, narrow_range: bool = False) -> None:
        super().__init__()
        self.bits, self.narrow_range = bits, narrow_range
        self.histogram = GrowingHistogram(bins=_BINS)

    def _take(self, x: Tensor) -> None:
        super()._take(x)
        self.histogram.update(x.reshape(1, -1))

    def _bounds(self) -> tuple[Tensor, Tensor]:
        counts, values = self.histogram.counts[0].double(), self.histogram.centres * self.histogram.bin_width
        seen = counts > 0
        counts, values = counts[seen], values[seen]
        mean = ((values * counts).sum() / counts.sum()).to(torch.float32)
        shares = torch.arange(_CANDIDATES, 0, -1, device=values.device) / _CANDIDATES  # the wider grid wins a tie
        low, high = self._extremes()
        lows, highs = mean + (low - mean) * shares, mean + (high - mean) * shares
        for _ in range(_TURNS):
            high = highs[self._errors(low.expand_as(highs), highs, values=values, counts=counts).argmin()]
            low = lows[self._errors(lows, high.expand_as(lows), values=values, counts=counts).argmin()]
        return low, high

    def _errors(self, lows: Tensor, highs: Tensor, *, values: Tensor, counts: Tensor) -> Tensor:
        """Summed squared error of each pair of ends."""
        first, last = integer_limits(self.bits, narrow_range=self.narrow_range)
        scales, offsets = grid_of_bounds(lows, highs, bits=self.bits, narrow_range=self.narrow_range)
        errors = []
        for scale, offset in zip(scales, offsets, strict=True):
            on_grid = ((values - offset) / scale).round_().clamp_(first, last).mul_(scale).add_(offset)
            errors.append(((on_grid - values).square_() * counts).sum())
        return torch.stack(errors)


BOUNDS_OBSERVERS: tuple[ObserverRow[BoundsObserver], ...] = (
    ObserverRow("minmax", BoundsObserver, ()),
    ObserverRow("mse", MseBoundsObserver, ("bits", "narrow_range")),
)


def make_bounds_observer(kind: str, *, bits: int, narrow_range: bool = False) -> BoundsObserver:
    """Build the observer called ``kind``.

    Args:
        kind: That of a row of ``BOUNDS_OBSERVERS``.
        bits: Width of the quantizer it is for.
        narrow_range: Of the quantizer.

    Raises:
        ValueError: another kind.
    """
    rows = {row.kind: row for row in BOUNDS_OBSERVERS}
    if kind not in rows:
        raise ValueError(f"with an offset the observer must be one of {', '.join(rows)}, got {kind!r}")
    options = {"bits": bits, "narrow_range": narrow_range}
    return rows[kind].make(**{name: options[name] for name in rows[kind].options})
