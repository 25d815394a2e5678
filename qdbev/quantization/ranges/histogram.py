"""A signed histogram of bounded memory whose content does not depend on how the values were cut into batches.

The upper edge is a power of two and the number of bins too, so growing means adding neighbouring pairs of bins,
exactly: the histogram of two batches in either order equals the histogram of their concatenation, count by count.
"""

from __future__ import annotations

import torch
from torch import Tensor

_CHUNK = 1 << 20  # values binned at a time: bounds the memory of the int64 indices
_SMALLEST_EXPONENT = -100  # ranges below 2^-100 are binned as if they were that wide


class GrowingHistogram:
    """Counts of values per row over ``[-2^e, 2^e)`` in ``2 bins`` bins; ``e`` grows with the largest magnitude seen.

    Args:
        bins: Bins on each side of zero, a power of two.

    Attributes:
        counts: (R, 2 * bins) int64, R rows (1 for a tensor, C for channels); bin ``bins`` starts at zero.
        exponents: (R,) int64, the ``e`` of each row.
        largest: (R,) float32, the largest magnitude seen, exactly.
    """

    def __init__(self, *, bins: int) -> None:
        if bins < 2 or bins & (bins - 1):
            raise ValueError(f"bins must be a power of two of at least 2, got {bins}")
        self.bins = bins
        self.counts = torch.zeros(0, 2 * bins, dtype=torch.int64)
        self.exponents = torch.zeros(0, dtype=torch.int64)
        self.largest = torch.zeros(0)

    def update(self, rows: Tensor) -> None:
        """Count the values of ``rows``, shape (R, n), finite floats; R is the same in every call."""
        rows = rows.detach().to(torch.float32)
        if not self.counts.numel():
            self._start(rows)
        if len(rows) != len(self.counts):
            raise ValueError(f"the histogram has {len(self.counts)} rows, got values with {len(rows)}")
        if rows.shape[1] == 0:
            return
        self._grow(torch.maximum(rows.amax(1), -rows.amin(1)))
        step = max(1, _CHUNK // len(rows))
        for start in range(0, rows.shape[1], step):
            self._count(rows[:, start : start + step])

    @property
    def bin_width(self) -> Tensor:
        """Width of a bin per row, (R,) float32."""
        return torch.exp2(self.exponents.to(torch.float32)) / self.bins

    @property
    def magnitudes(self) -> Tensor:
        """Counts of ``|x|``, (R, bins): bin ``i`` covers ``[i w, (i + 1) w)``."""
        return self.counts[:, self.bins :] + self.counts[:, : self.bins].flip(1)

    @property
    def centres(self) -> Tensor:
        """Bin centres in units of the bin width, (2 * bins,) float32: -bins + 0.5 ... bins - 0.5."""
        return torch.arange(-self.bins, self.bins, device=self.counts.device, dtype=torch.float32) + 0.5

    def _start(self, rows: Tensor) -> None:
        self.counts = torch.zeros(len(rows), 2 * self.bins, dtype=torch.int64, device=rows.device)
        self.exponents = torch.full((len(rows),), _SMALLEST_EXPONENT, dtype=torch.int64, device=rows.device)
        self.largest = torch.zeros(len(rows), device=rows.device)

    def _grow(self, largest: Tensor) -> None:
        """Widen the rows until ``largest`` lies inside; rows of zeros alone move at once: zero stays in its bin."""
        exponents = torch.frexp(largest).exponent.to(torch.int64).clamp_min(_SMALLEST_EXPONENT)
        needed = torch.where(largest == 0, torch.full_like(exponents, _SMALLEST_EXPONENT), exponents)
        only_zeros = self.largest == 0
        self.exponents = torch.where(only_zeros, torch.maximum(needed, self.exponents), self.exponents)
        self.largest = torch.maximum(self.largest, largest)
        while bool((too_small := self.exponents < needed).any()):
            pairs = self.counts[too_small].view(-1, self.bins, 2).sum(-1)
            merged = torch.zeros_like(self.counts[too_small])
            merged[:, self.bins // 2 : self.bins // 2 + self.bins] = pairs
            self.counts[too_small] = merged
            self.exponents[too_small] += 1

    def _count(self, rows: Tensor) -> None:
        index = torch.floor(rows / self.bin_width[:, None]).to(torch.int64)
        index = index.clamp_(-self.bins, self.bins - 1) + self.bins
        index += torch.arange(len(rows), device=rows.device)[:, None] * (2 * self.bins)
        self.counts += torch.bincount(index.flatten(), minlength=self.counts.numel()).view_as(self.counts)
