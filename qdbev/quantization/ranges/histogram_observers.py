"""Observers that read a histogram: percentile, least squared error, least KL divergence.

All of them give the same range however the values were cut into batches and in whatever order these came.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qdbev.quantization.grid.integers import check_bits, integer_limits, scale_of_range
from qdbev.quantization.ranges.histogram import GrowingHistogram
from qdbev.quantization.ranges.observers import Observer, ObserverRow

_TENSOR_BINS = 4096
_VALUES_AT_ONCE = 1 << 18  # that candidates are tried on together: a call's overhead is shared, caches hold them
OF_HISTOGRAM = ("histogram.counts", "histogram.exponents", "histogram.largest")
_CANDIDATES = 100  # ranges tried by mse and entropy: 1 %, 2 % ... 100 % of the largest magnitude


class HistogramObserver(Observer):
    """Common part of the observers that read a histogram.

    Args:
        axis: Channel axis or None.
        bins: Bins on each side of zero, a power of two.
    """

    remembers = OF_HISTOGRAM

    def __init__(self, *, axis: int | None = None, bins: int = _TENSOR_BINS) -> None:
        super().__init__(axis=axis)
        self.histogram = GrowingHistogram(bins=bins)

    def _take(self, x: Tensor) -> None:
        self.histogram.update(x.reshape(1, -1) if self.axis is None else x.movedim(self.axis, 0).flatten(1))

    def _range(self) -> Tensor:
        ranges = self._row_ranges()
        return ranges.reshape(()) if self.axis is None else ranges

    def _row_ranges(self) -> Tensor:
        raise NotImplementedError


class PercentileObserver(HistogramObserver):
    """The percentile of ``|x|``, linear inside a bin; 100 is the exact maximum. Zeros count as values.

    Args:
        axis: Channel axis or None.
        percentile: In (0, 100].
        bins: Bins on each side of zero.
    """

    def __init__(self, *, axis: int | None = None, percentile: float = 99.99, bins: int = _TENSOR_BINS) -> None:
        super().__init__(axis=axis, bins=bins)
        if not 0.0 < percentile <= 100.0:
            raise ValueError(f"percentile must be above 0 and at most 100, got {percentile}")
        self.percentile = percentile

    def _row_ranges(self) -> Tensor:
        histogram = self.histogram
        if self.percentile == 100.0:
            return histogram.largest
        counts = histogram.magnitudes.to(torch.float64)
        cumulative = counts.cumsum(1)
        target = cumulative[:, -1:] * (self.percentile / 100.0)
        index = torch.searchsorted(cumulative, target).clamp_max(histogram.bins - 1)
        inside = counts.gather(1, index)
        before = cumulative.gather(1, index) - inside
        position = index + ((target - before) / inside.clamp_min(1.0)).clamp(0.0, 1.0)
        return torch.minimum(position.squeeze(1).to(torch.float32) * histogram.bin_width, histogram.largest)


class MseObserver(HistogramObserver):
    """The range, among 100 shares of the maximum, whose quantizer has the least squared error on the values seen.

    Args:
        bits: Width of the quantizer.
        axis: Channel axis or None.
        scale_rule: ``qdbev`` or ``hawq``.
        narrow_range: Of the quantizer.
        bins: Bins on each side of zero; 16 per step by default.
    """

    def __init__(
        self,
        *,
        bits: int,
        axis: int | None = None,
        scale_rule: str = "qdbev",
        narrow_range: bool = False,
        bins: int | None = None,
    ) -> None:
        fitting = _TENSOR_BINS if axis is None else min(_TENSOR_BINS, 1 << (check_bits(bits) + 4))
        super().__init__(axis=axis, bins=bins or fitting)
        self.bits, self.scale_rule, self.narrow_range = bits, scale_rule, narrow_range

    def set_bits(self, bits: int) -> None:
        """See ``Observer``."""
        self.bits = bits

    def _row_ranges(self) -> Tensor:
        largest = self.histogram.largest
        shares = torch.arange(_CANDIDATES, 0, -1, dtype=torch.float64, device=largest.device) / _CANDIDATES
        candidates_CR = largest * shares.to(largest.dtype)[:, None]  # the larger range is first, and wins a tie
        at_once = max(1, _VALUES_AT_ONCE // self.histogram.counts.numel())
        errors_CR = torch.cat([self._squared_error(part) for part in candidates_CR.split(at_once)])
        errors_CR = errors_CR.nan_to_num(nan=torch.inf, posinf=torch.inf)
        return candidates_CR.gather(0, errors_CR.argmin(0, keepdim=True)).squeeze(0)

    def _squared_error(self, ranges_CR: Tensor) -> Tensor:
        """The squared error of every row with every range, (C, R): on what the bins hold, in bins."""
        width_R1, centres = self.histogram.bin_width[:, None], self.histogram.centres
        low, high = integer_limits(self.bits, narrow_range=self.narrow_range)
        scale_CR1 = scale_of_range(ranges_CR, bits=self.bits, rule=self.scale_rule)[..., None] / width_R1
        error = centres - (centres / scale_CR1).round_().clamp_(low, high).mul_(scale_CR1)
        return error.square_().mul_(self.histogram.counts.to(torch.float32)).sum(-1)


class EntropyObserver(HistogramObserver):
    """The range whose quantized distribution of ``|x|`` has the least KL divergence from the true one.

    As in TensorRT's calibration: values above a candidate range are counted in its last bin (P); the candidate's levels
    share their mass evenly among their occupied bins (Q); the range with the least KL(P, Q) wins. Here the levels are
    those of the quantizer itself, at any width.

    Args:
        bits: Width of the quantizer.
        scale_rule: ``qdbev`` or ``hawq``.
        bins: Bins of ``|x|``.
    """

    def __init__(self, *, bits: int, scale_rule: str = "qdbev", bins: int = _TENSOR_BINS) -> None:
        super().__init__(axis=None, bins=bins)
        self.bits, self.scale_rule = check_bits(bits), scale_rule

    def set_bits(self, bits: int) -> None:
        """See ``Observer``."""
        self.bits = bits

    def _row_ranges(self) -> Tensor:
        largest, width = self.histogram.largest, self.histogram.bin_width
        used = int(torch.ceil(largest / width).clamp_min(1.0).item())
        counts = self.histogram.magnitudes[0, : min(used + 1, self.histogram.bins)].to(torch.float64)
        best, chosen = torch.inf, largest
        for share in range(_CANDIDATES, 0, -1):
            candidate = largest * (share / _CANDIDATES)
            divergence = self._divergence(counts, steps_of_range=float(candidate / width))
            if divergence < best:
                best, chosen = divergence, candidate
        return chosen

    def _divergence(self, counts: Tensor, *, steps_of_range: float) -> float:
        """Return KL(P, Q) of a candidate range of so many bins; infinite where Q is zero and P is not."""
        inside = min(len(counts), max(1, int(-(-steps_of_range // 1))))
        clipped = counts[:inside]
        reference = clipped.clone()
        reference[-1] += counts[inside:].sum()
        scale = scale_of_range(torch.tensor(steps_of_range), bits=self.bits, rule=self.scale_rule).to(counts)
        level = (
            ((torch.arange(inside).to(counts) + 0.5) / scale).round_().clamp_(max=integer_limits(self.bits)[1]).long()
        )
        occupied = (reference > 0).to(counts)
        mass = torch.zeros(1 << self.bits).to(counts).index_add_(0, level, clipped)
        bins = torch.zeros(1 << self.bits).to(counts).index_add_(0, level, occupied)
        quantized = (mass / bins.clamp_min(1.0))[level] * occupied
        p, q = reference / reference.sum(), quantized / quantized.sum().clamp_min(1.0)
        terms = torch.where(p > 0, p * (p.log() - q.log()), torch.zeros_like(p))
        return float(terms.sum())


HISTOGRAM_OBSERVERS: tuple[ObserverRow[Observer], ...] = (
    ObserverRow("percentile", PercentileObserver, ("axis", "percentile")),
    ObserverRow("mse", MseObserver, ("bits", "axis", "scale_rule", "narrow_range")),
    ObserverRow("entropy", EntropyObserver, ("bits", "scale_rule")),
)
