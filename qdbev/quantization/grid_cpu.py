"""The arithmetic of fake quantization on a CPU, compiled by numba: one pass over memory in place of four to eight.

The same numbers, bit for bit, as the torch operations of :mod:`qdbev.quantization.integers` and
:mod:`qdbev.quantization.fake_quantize`; the gradient of a scale up to the order of summation. Threads share a large
tensor.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

Array = np.ndarray[Any, Any]

_SHARE = 1 << 19  # elements that are worth a thread
_BLOCK = 2048  # elements that are summed in float32


def lies_in_rows(x: Tensor, *, axis: int | None) -> bool:
    """Whether ``x`` is float32, fills its memory without gaps, and where there is an axis each channel lies in one."""
    if x.dtype != torch.float32 or not x.numel():
        return False
    if x.is_contiguous():
        return True
    if x.ndim == 4 and axis in (None, 0) and x.is_contiguous(memory_format=torch.channels_last):
        return True
    return axis is None and x.ndim > 1 and x.transpose(0, 1).is_contiguous()


def onto_grid(x: Tensor, *, scale: Tensor, unit: Tensor, axis: int | None, low: int, high: int) -> Tensor:
    """Return ``clamp(round(x / scale), low, high) * unit``."""
    out = torch.empty_like(x)
    rows, steps, units = _rows(x, axis=axis), _per_row(scale, x=x, axis=axis), _per_row(unit, x=x, axis=axis)
    _run(_onto_grid, [rows, _rows(out, axis=axis)], [steps, units], low=low, high=high)
    return out


def passed(gradient: Tensor, x: Tensor, *, scale: Tensor, axis: int | None, low: int, high: int) -> Tensor:
    """Return the gradient where ``x`` was not clamped, else zero; negative ``x`` were where ``low`` is 0."""
    out, like_x = torch.empty_like(x), _laid_out_as(x, gradient)
    tensors = [_rows(each, axis=axis) for each in (like_x, x, out)]
    _run(_passed, tensors, [_per_row(scale, x=x, axis=axis)], low=low, high=high)
    return out


def passed_and_slope(
    gradient: Tensor, x: Tensor, *, scale: Tensor, axis: int | None, low: int, high: int
) -> tuple[Tensor, Tensor]:
    """Return :func:`passed`, and per scale the sum of the gradient times ``S q`` less what passed times ``x``."""
    out, like_x = torch.empty_like(x), _laid_out_as(x, gradient)
    tensors = [_rows(each, axis=axis) for each in (like_x, x, out)]
    sums = _run(_passed_and_slope, tensors, [_per_row(scale, x=x, axis=axis)], low=low, high=high)
    return out, torch.from_numpy(sums).view(-1, scale.numel()).sum(0).to(torch.float32).view(scale.shape)


def _rows(x: Tensor, *, axis: int | None) -> Array:
    """View as (rows, columns), a row for each channel of each index before it; without an axis one row."""
    rows = 1 if axis is None else _before(x, axis=axis) * x.shape[axis]
    columns = x.numel() // rows
    return x.detach().as_strided((rows, columns), (columns, 1)).numpy()


def _per_row(scale: Tensor, *, x: Tensor, axis: int | None) -> Array:
    flat = scale.detach().reshape(-1)
    before = 1 if axis is None else _before(x, axis=axis)
    return (flat if before == 1 else flat.repeat(before)).numpy()


def _before(x: Tensor, *, axis: int) -> int:
    return math.prod(x.shape[: axis % x.ndim])


def _laid_out_as(x: Tensor, gradient: Tensor) -> Tensor:
    return gradient if gradient.stride() == x.stride() else torch.empty_like(x).copy_(gradient)


def _run(kernel: Callable[..., None], tensors: list[Array], per_row: list[Array], *, low: int, high: int) -> Array:
    """Run a kernel on every row, shared out over torch's threads; returns the sum that it makes for each row."""
    rows, columns = tensors[0].shape
    limits = np.float32(low), np.float32(high), np.float32(0 if low == 0 else -np.inf)
    parts = min(torch.get_num_threads(), rows * columns // _SHARE)
    if parts < 2:
        sums = np.zeros(rows)
        kernel(*tensors, *per_row, sums, *limits)
        return sums
    if rows == 1:
        split = [np.array_split(tensor, parts, axis=1) for tensor in tensors] + [[each] * parts for each in per_row]
        sums = np.zeros(parts)
    else:
        parts, sums = min(parts, rows), np.zeros(rows)
        split = [np.array_split(each, parts) for each in (*tensors, *per_row)]
    with ThreadPoolExecutor(parts) as pool:
        list(pool.map(lambda *piece: kernel(*piece, *limits), *split, np.array_split(sums, parts)))
    return sums.sum(keepdims=True) if rows == 1 else sums


def _compiled(function: Callable[..., Any], *, reorder: bool = False) -> Callable[..., Any]:
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"reassoc"} if reorder else False}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no folder to keep the compiled code in
        return numba.njit(**options)(function)


# `floor` is 0 where integers are unsigned: below it a value is clamped even where it rounds to zero.


@_compiled
def _onto_grid(
    x: Array, out: Array, scale: Array, unit: Array, sums: Array, low: float, high: float, floor: float
) -> None:
    for row in range(x.shape[0]):
        for i in range(x.shape[1]):
            step = np.rint(x[row, i] / scale[row])
            step = low if step < low else step
            step = high if step > high else step
            out[row, i] = step * unit[row]


@_compiled
def _passed(
    gradient: Array, x: Array, out: Array, scale: Array, sums: Array, low: float, high: float, floor: float
) -> None:
    for row in range(x.shape[0]):
        for i in range(x.shape[1]):
            step = np.rint(x[row, i] / scale[row])
            clamped = (step < low) | (step > high) | (x[row, i] < floor)
            out[row, i] = x.dtype.type(0) if clamped else gradient[row, i]


@partial(_compiled, reorder=True)
def _block(gradient: Array, x: Array, out: Array, scale: float, low: float, high: float, floor: float) -> float:
    total = x.dtype.type(0)
    for i in range(len(x)):
        step = np.rint(x[i] / scale)
        clamped = (step < low) | (step > high) | (x[i] < floor)
        step = low if step < low else step
        step = high if step > high else step
        through = x.dtype.type(0) if clamped else gradient[i]
        out[i] = through
        total += gradient[i] * (step * scale) - through * x[i]
    return total


@_compiled
def _passed_and_slope(
    gradient: Array, x: Array, out: Array, scale: Array, sums: Array, low: float, high: float, floor: float
) -> None:
    for row in range(x.shape[0]):
        for start in range(0, x.shape[1], _BLOCK):
            block = slice(start, start + _BLOCK)
            sums[row] += _block(gradient[row, block], x[row, block], out[row, block], scale[row], low, high, floor)
