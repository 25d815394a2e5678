"""The arithmetic of fake quantization on a CPU, compiled by numba: one pass over memory in place of four to eight.

The same numbers, bit for bit, as the torch operations of ``qdbev.quantization.grid.integers`` and
``qdbev.quantization.grid.fake_quantize``; the gradient of a scale up to the order of summation. Threads share a
large tensor. The loops are called by address: for the many small tensors of a network a call is most of the time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from qdbev.quantization.grid import cpu_loops

TYPES = (torch.float32,)

_WORTH_A_THREAD = 1 << 19  # elements
_DOUBLE = 8  # bytes
_SMALLEST = torch.finfo(torch.float32).tiny


def onto_grid(
    x: Tensor, *, scale: Tensor, axis: int | None, low: int, high: int, rescale: bool, offset: float = 0.0
) -> Tensor:
    """Return ``clamp(round((x - offset) / scale), low, high)``, times ``scale`` plus ``offset`` if ``rescale``."""
    out = torch.empty_like(x)
    _run(cpu_loops.onto_grid, x, out, scale=scale, axis=axis, limits=(low, high, float(rescale), offset))
    return out


def onto_bytes(
    x: Tensor, *, scale: Tensor, axis: int | None, low: int, high: int, zero: int, offset: float = 0.0
) -> Tensor | None:
    """Return ``clamp(round((x - offset) / scale), low, high) + zero``, modulo 256, as uint8.

    None if any of ``x`` is no number.
    """
    out = torch.empty_like(x, dtype=torch.uint8)
    nan_or_zero = _run(cpu_loops.onto_bytes, x, out, scale=scale, axis=axis, limits=(low, high, zero, offset))
    return None if nan_or_zero.any() else out


def grad_input(
    grad_output: Tensor, x: Tensor, *, scale: Tensor, axis: int | None, low: int, high: int, in_place: bool = False
) -> Tensor:
    """Return the gradient where ``x`` was not clamped, else zero; negative ``x`` were where ``low`` is 0.

    ``in_place`` lets it write into the gradient of the output.
    """
    out = _laid_as(x, grad_output=grad_output, in_place=in_place)
    _run(cpu_loops.grad_input, x, out, scale=scale, axis=axis, limits=(low, high, _floor(low)))
    return out


def grad_input_and_log_scale(
    grad_output: Tensor, x: Tensor, *, scale: Tensor, axis: int | None, low: int, high: int, in_place: bool = False
) -> tuple[Tensor, Tensor]:
    """Return ``grad_input``, and per scale the gradient of its logarithm, without LSQ's factor.

    It is the sum of the gradient of the output times ``S q``, less that of the input times ``x``.
    """
    out = _laid_as(x, grad_output=grad_output, in_place=in_place)
    limits = (low, high, _floor(low))
    sums = _run(cpu_loops.grad_input_and_log_scale, x, out, scale=scale, axis=axis, limits=limits)
    return out, _by_scale(sums, scale=scale)


def recomputed_and_grads(
    grad_output: Tensor,
    x: Tensor,
    *,
    scale: Tensor,
    axis: int | None,
    low: int,
    high: int,
    learned: bool,
    rectified: bool = False,
    in_place: bool = False,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return ``onto_grid``, rescaled, and ``grad_input_and_log_scale`` in one pass over ``x``.

    The last is None unless ``learned``. ``rectified`` lets nothing pass where ``x`` is zero.
    """
    out, recomputed = _laid_as(x, grad_output=grad_output, in_place=in_place), torch.empty_like(x)
    limits = (low, high, 0.0 if rectified else _floor(low))
    sums = _run(cpu_loops.recomputed_and_grads, x, out, recomputed=recomputed, scale=scale, axis=axis, limits=limits)
    return recomputed, out, _by_scale(sums, scale=scale) if learned else None


def recomputed_and_clipped_grads(
    grad_output: Tensor,
    x: Tensor,
    *,
    scale: Tensor,
    axis: int | None,
    low: int,
    high: int,
    offset: float,
    level: float | None,
    rectified: bool = False,
    in_place: bool = False,
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor, Tensor]]:
    """Return ``onto_grid``, rescaled, the gradient of the input, and three sums per scale, in one pass over ``x``.

    Clipped is what does not lie between ``low`` and ``high`` steps of the offset, or given a clipping ``level``, within
    it on either side; unsigned, also what is negative, and zero too if ``rectified``. The sums are of the gradient
    times the integer less that of the input times the steps, and of the gradient of what is clipped low and high.
    """
    out, recomputed = _laid_as(x, grad_output=grad_output, in_place=in_place), torch.empty_like(x)
    inner, outer = (low, high) if level is None else (-1.0, 1.0)
    inner = inner if low else 0.0 if rectified else -_SMALLEST
    sums = _run(
        cpu_loops.recomputed_and_clipped_grads,
        x,
        out,
        recomputed=recomputed,
        scale=scale,
        axis=axis,
        limits=(low, high, offset, level or 0.0, inner, outer),
        sums_per_row=3,
    )
    grad_scale, clipped_low, clipped_high = (_by_scale(part, scale=scale) for part in sums.unbind(-1))
    return recomputed, out, (grad_scale, clipped_low, clipped_high)


def _by_scale(sums: Tensor, *, scale: Tensor) -> Tensor:
    """The sums of all rows of a scale together."""
    if sums.numel() > scale.numel():
        sums = sums.view(-1, scale.numel()).sum(0)
    return sums.to(torch.float32).view(scale.shape)


def _floor(low: int) -> float:
    """Where integers are unsigned, up to this a value is clamped even where it rounds to zero."""
    return -_SMALLEST if low == 0 else -math.inf


def _laid_as(x: Tensor, *, grad_output: Tensor, in_place: bool) -> Tensor:
    """The gradient in the layout of ``x``: a copy, unless it may be written and lies so already."""
    return grad_output if in_place and grad_output.stride() == x.stride() else torch.empty_like(x).copy_(grad_output)


def _run(
    loop: Callable[..., None],
    x: Tensor,
    out: Tensor,
    *,
    scale: Tensor,
    axis: int | None,
    limits: tuple[float, ...],
    recomputed: Tensor | None = None,
    sums_per_row: int = 1,
) -> Tensor:
    """Run a loop on every row, shared out over torch's threads; returns the sums that it makes of each row, float64.

    A row is a channel of each index before the axis; without an axis all is one row.
    """
    elements, channels = x.numel(), scale.numel()
    if channels != (1 if axis is None else x.shape[axis]):
        raise ValueError(f"{channels} scales do not fit a tensor of shape {tuple(x.shape)} along axis {axis}")
    rows = channels if not axis else math.prod(x.shape[: axis % x.ndim]) * channels
    columns, steps = elements // rows, scale.to(torch.float32).contiguous()
    arrays = [(array.data_ptr(), array.element_size()) for array in (x, out, out if recomputed is None else recomputed)]
    shape = () if sums_per_row == 1 else (sums_per_row,)
    shares = min(torch.get_num_threads(), elements // _WORTH_A_THREAD) if elements >= 2 * _WORTH_A_THREAD else 1
    sums = torch.empty(max(rows, shares), *shape, dtype=torch.float64)
    if shares < 2:
        addresses = [address for address, _ in arrays]
        loop(*addresses, steps.data_ptr(), sums.data_ptr(), rows, columns, channels, 0, *limits)
        return sums

    def run(share: _Share) -> None:
        addresses = [address + size * share.first_element for address, size in arrays]
        sums_at = sums.data_ptr() + _DOUBLE * sums_per_row * share.first_sum
        loop(*addresses, steps.data_ptr(), sums_at, share.rows, share.columns, channels, share.first_row, *limits)

    with ThreadPoolExecutor(shares) as pool:
        list(pool.map(run, _shared_out(rows, columns, shares=shares)))
    return sums[:shares].sum(0, keepdim=True) if rows == 1 else sums[:rows]


class _Share(NamedTuple):
    """What one thread does of a tensor: whole rows, or of a single one a piece with a sum of its own."""

    rows: int
    columns: int
    first_row: int
    first_element: int
    first_sum: int


def _shared_out(rows: int, columns: int, *, shares: int) -> list[_Share]:
    """Cut rows, or a single row, into shares of about the same size.

    >>> [(share.rows, share.first_row, share.first_element) for share in _shared_out(5, 10, shares=2)]
    [(2, 0, 0), (3, 2, 20)]
    """
    edges = [(columns if rows == 1 else rows) * share // shares for share in range(shares + 1)]
    if rows == 1:
        return [_Share(1, last - first, 0, first, share) for share, (first, last) in enumerate(pairwise(edges))]
    return [_Share(last - first, columns, first, first * columns, first) for first, last in pairwise(edges)]
