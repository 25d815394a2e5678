"""The arithmetic of fake quantization on a CPU, compiled by numba: one pass over memory in place of four to eight.

The same numbers, bit for bit, as the torch operations of ``qdbev.quantization.grid.integers`` and
``qdbev.quantization.grid.fake_quantize``; the gradient of a scale up to the order of summation. Threads share a
large tensor. The kernels are called by address, which for the many small tensors of a network is most of the time.
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
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from torch import Tensor

Array = np.ndarray[Any, Any]

TYPES = (torch.float32,)

_SHARE = 1 << 19  # elements that are worth a thread
_BLOCK = 128  # elements that are worked on at a time, and summed in float32
_AHEAD = 512  # elements by which the cache is filled ahead: more and less were slower
_LINE = 16  # elements in a line of the cache
_FLOAT, _DOUBLE = 4, 8  # bytes
_SMALLEST = torch.finfo(torch.float32).tiny


def onto_grid(
    x: Tensor, *, scale: Tensor, axis: int | None, low: int, high: int, rescale: bool, offset: float = 0.0
) -> Tensor:
    """Return ``clamp(round((x - offset) / scale), low, high)``, times ``scale`` plus ``offset`` if ``rescale``."""
    out = torch.empty_like(x)
    _run(_onto_grid, x, out, scale=scale, axis=axis, limits=(low, high, float(rescale), offset))
    return out


def onto_bytes(
    x: Tensor, *, scale: Tensor, axis: int | None, low: int, high: int, zero: int, offset: float = 0.0
) -> Tensor | None:
    """Return ``clamp(round((x - offset) / scale), low, high) + zero``, modulo 256, as uint8.

    None if any of ``x`` is no number.
    """
    out = torch.empty_like(x, dtype=torch.uint8)
    lost = _run(_onto_bytes, x, out, scale=scale, axis=axis, limits=(low, high, zero, offset))
    return None if lost.any() else out


def passed(
    gradient: Tensor, x: Tensor, *, scale: Tensor, axis: int | None, low: int, high: int, in_place: bool = False
) -> Tensor:
    """Return the gradient where ``x`` was not clamped, else zero; negative ``x`` were where ``low`` is 0.

    ``in_place`` lets it write into the gradient.
    """
    out = _own(gradient, x=x, in_place=in_place)
    _run(_passed, x, out, scale=scale, axis=axis, limits=(low, high, _floor(low)))
    return out


def passed_and_slope(
    gradient: Tensor, x: Tensor, *, scale: Tensor, axis: int | None, low: int, high: int, in_place: bool = False
) -> tuple[Tensor, Tensor]:
    """Return ``passed``, and per scale the sum of the gradient times ``S q`` less what passed times ``x``."""
    out = _own(gradient, x=x, in_place=in_place)
    sums = _run(_passed_and_slope, x, out, scale=scale, axis=axis, limits=(low, high, _floor(low)))
    return out, _by_scale(sums, scale=scale)


def again_and_passed(
    gradient: Tensor,
    x: Tensor,
    *,
    scale: Tensor,
    axis: int | None,
    low: int,
    high: int,
    slope: bool,
    rectified: bool = False,
    in_place: bool = False,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return ``onto_grid``, rescaled, and ``passed_and_slope`` in one pass over ``x``; the sum if ``slope``.

    ``rectified`` lets nothing pass where ``x`` is zero.
    """
    out, again = _own(gradient, x=x, in_place=in_place), torch.empty_like(x)
    limits = (low, high, 0.0 if rectified else _floor(low))
    sums = _run(_again_and_passed, x, out, again=again, scale=scale, axis=axis, limits=limits)
    return again, out, _by_scale(sums, scale=scale) if slope else None


def again_and_clipped(
    gradient: Tensor,
    x: Tensor,
    *,
    scale: Tensor,
    axis: int | None,
    low: int,
    high: int,
    offset: float,
    unit: float | None,
    rectified: bool = False,
    in_place: bool = False,
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor, Tensor]]:
    """Return ``onto_grid``, rescaled, what passes, and three sums per scale, in one pass over ``x``.

    Clipped is what does not lie between ``low`` and ``high`` steps of the offset, or given ``unit``, within one of it
    on either side; unsigned, also what is negative, and zero too if ``rectified``. The sums are of the gradient times
    the integer less what passes times the steps, of the gradient of what is clipped below, and of that above.
    """
    out, again = _own(gradient, x=x, in_place=in_place), torch.empty_like(x)
    inner, outer = (low, high) if unit is None else (-1.0, 1.0)
    inner = inner if low else 0.0 if rectified else -_SMALLEST
    limits = (low, high, offset, unit or 0.0, inner, outer)
    sums = _run(_again_and_clipped, x, out, again=again, scale=scale, axis=axis, limits=limits, sums_per_row=3)
    slope, below, above = (_by_scale(each, scale=scale) for each in sums.unbind(-1))
    return again, out, (slope, below, above)


def _by_scale(sums: Tensor, *, scale: Tensor) -> Tensor:
    """The sums of all rows of a scale together."""
    if sums.numel() > scale.numel():
        sums = sums.view(-1, scale.numel()).sum(0)
    return sums.to(torch.float32).view(scale.shape)


def _floor(low: int) -> float:
    """Where integers are unsigned, up to this a value is clamped even where it rounds to zero."""
    return -_SMALLEST if low == 0 else -math.inf


def _own(gradient: Tensor, *, x: Tensor, in_place: bool) -> Tensor:
    """The gradient in the layout of ``x``: a copy, unless it may be written and lies so already."""
    return gradient if in_place and gradient.stride() == x.stride() else torch.empty_like(x).copy_(gradient)


def _run(
    kernel: Callable[..., None],
    x: Tensor,
    out: Tensor,
    *,
    scale: Tensor,
    axis: int | None,
    limits: tuple[float, ...],
    again: Tensor | None = None,
    sums_per_row: int = 1,
) -> Tensor:
    """Run a kernel on every row, shared out over torch's threads; returns the sums that it makes of each row, float64.

    A row is a channel of each index before the axis; without an axis all is one row.
    """
    elements, channels = x.numel(), scale.numel()
    if channels != (1 if axis is None else x.shape[axis]):
        raise ValueError(f"{channels} scales do not fit a tensor of shape {tuple(x.shape)} along axis {axis}")
    rows = channels if not axis else math.prod(x.shape[: axis % x.ndim]) * channels
    columns, steps = elements // rows, scale.to(torch.float32).contiguous()
    arrays = [(each.data_ptr(), each.element_size()) for each in (x, out, out if again is None else again)]
    each_row = () if sums_per_row == 1 else (sums_per_row,)
    parts = min(torch.get_num_threads(), elements // _SHARE) if elements >= 2 * _SHARE else 1
    if parts < 2:
        sums = torch.empty(rows, *each_row, dtype=torch.float64)
        kernel(
            *[address for address, _ in arrays], steps.data_ptr(), sums.data_ptr(), rows, columns, channels, 0, *limits
        )
        return sums
    sums = torch.empty(max(rows, parts), *each_row, dtype=torch.float64)
    edges = [(columns if rows == 1 else rows) * part // parts for part in range(parts + 1)]

    def run(part: int) -> None:
        first, last = edges[part], edges[part + 1]
        skipped, shape = (first, (1, last - first)) if rows == 1 else (first * columns, (last - first, columns))
        moved = [address + size * skipped for address, size in arrays]
        place, row = (part, 0) if rows == 1 else (first, first)
        kernel(
            *moved, steps.data_ptr(), sums.data_ptr() + _DOUBLE * sums_per_row * place, *shape, channels, row, *limits
        )

    with ThreadPoolExecutor(parts) as pool:
        list(pool.map(run, range(parts)))
    return sums[:parts].sum(0, keepdim=True) if rows == 1 else sums[:rows]


def _or_without_cache(compile: Callable[..., Any], function: Callable[..., Any], **options: Any) -> Any:
    try:
        return compile(cache=True, **options)(function)
    except RuntimeError:  # no folder to keep the compiled code in
        return compile(**options)(function)


def _by_address(function: Callable[..., Any]) -> Callable[..., None]:
    """Compile for a call by address, which drops the interpreter's lock; see the kernels for the arguments."""
    limits = function.__code__.co_argcount - 9
    signature = types.void(*[types.voidptr] * 5, *[types.intp] * 4, *[types.float32] * limits)
    compiled = _or_without_cache(partial(numba.cfunc, signature), function, error_model="numpy")
    entry: Callable[..., None] = compiled.ctypes
    return entry


# The kernels read `x` and write `out`, which for a backward pass holds the gradient, both float32 of (rows, columns);
# they may write `again`, as large, and `sums`, float64 of (rows,). Row r has the scale (first + r) % channels. Clamped
# are integers below `low` or above `high`, and values up to `floor`. The gradient and what passes share one array: of
# two that might overlap the compiler would make a loop without vectors. While a block is worked on, one further on
# comes into the cache: left alone, a processor looks no further ahead than to the end of a page of memory.


@intrinsic
def _fetch(typing: Any, address: Any, offset: Any) -> Any:
    """Ask for the line of the cache at an address and an offset in bytes; it may lie past the end of an array."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [place, number, number, number])
        prefetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        line = builder.gep(builder.bitcast(arguments[0], place), [arguments[1]])
        builder.call(prefetch, [line, number(0), number(3), number(1)])  # to read, into every level, data
        return context.get_dummy_value()

    return types.void(address, types.intp), generate


@partial(_or_without_cache, numba.njit, nogil=True, error_model="numpy")
def _fetch_ahead(x: Any, out: Any, start: int, stop: int) -> None:
    for element in range(start, stop, _LINE):
        for address in (x, out):
            _fetch(address, _FLOAT * (element + _AHEAD))  # type: ignore[call-arg]


@partial(_or_without_cache, numba.njit, nogil=True, error_model="numpy")
def _onto_grid_block(
    x: Array, out: Array, scale: float, low: float, high: float, unit: float, offset: float, back: float
) -> None:
    for i in range(len(x)):
        step = np.rint((x[i] - offset) / scale)
        step = low if step < low else step
        step = high if step > high else step
        out[i] = step * unit - back


@_by_address
def _onto_grid(
    x: Any,
    out: Any,
    again: Any,
    scale: Any,
    sums: Any,
    rows: int,
    columns: int,
    channels: int,
    first: int,
    low: float,
    high: float,
    rescale: float,
    offset: float,
) -> None:
    source, made = numba.carray(x, (rows, columns), np.float32), numba.carray(out, (rows, columns), np.float32)
    scales = numba.carray(scale, (channels,), np.float32)
    for row in range(rows):
        own = scales[(first + row) % channels]
        unit = own if rescale else np.float32(1)
        back = np.float32(0) - offset  # taking it off, unlike adding the offset, leaves a zero its sign where that is 0
        for start in range(0, columns, _BLOCK):
            stop = min(start + _BLOCK, columns)
            _fetch_ahead(x, out, row * columns + start, row * columns + stop)
            _onto_grid_block(source[row, start:stop], made[row, start:stop], own, low, high, unit, offset, back)


@partial(_or_without_cache, numba.njit, nogil=True, error_model="numpy", fastmath={"reassoc", "contract"})
def _onto_bytes_block(x: Array, out: Array, scale: float, low: float, high: float, zero: float, offset: float) -> float:
    lost = x.dtype.type(0)  # stays so, unless something is no number
    for i in range(len(x)):
        step = np.rint((x[i] - offset) / scale)
        step = low if step < low else step
        step = high if step > high else step
        lost += step * x.dtype.type(0)
        out[i] = np.uint8(np.int32(step + zero))
    return lost


@_by_address
def _onto_bytes(
    x: Any,
    out: Any,
    again: Any,
    scale: Any,
    sums: Any,
    rows: int,
    columns: int,
    channels: int,
    first: int,
    low: float,
    high: float,
    zero: float,
    offset: float,
) -> None:
    source, made = numba.carray(x, (rows, columns), np.float32), numba.carray(out, (rows, columns), np.uint8)
    scales, lost = numba.carray(scale, (channels,), np.float32), numba.carray(sums, (rows,), np.float64)
    for row in range(rows):
        lost[row], own = 0, scales[(first + row) % channels]
        for start in range(0, columns, _BLOCK):
            stop = min(start + _BLOCK, columns)
            _fetch_ahead(x, x, row * columns + start, row * columns + stop)
            lost[row] += _onto_bytes_block(source[row, start:stop], made[row, start:stop], own, low, high, zero, offset)


@partial(_or_without_cache, numba.njit, nogil=True, error_model="numpy")
def _passed_block(x: Array, out: Array, scale: float, low: float, high: float, floor: float) -> None:
    for i in range(len(x)):
        step = np.rint(x[i] / scale)
        clamped = (step < low) | (step > high) | (x[i] <= floor)
        out[i] = x.dtype.type(0) if clamped else out[i]


@_by_address
def _passed(
    x: Any,
    out: Any,
    again: Any,
    scale: Any,
    sums: Any,
    rows: int,
    columns: int,
    channels: int,
    first: int,
    low: float,
    high: float,
    floor: float,
) -> None:
    source, made = numba.carray(x, (rows, columns), np.float32), numba.carray(out, (rows, columns), np.float32)
    scales = numba.carray(scale, (channels,), np.float32)
    for row in range(rows):
        own = scales[(first + row) % channels]
        for start in range(0, columns, _BLOCK):
            stop = min(start + _BLOCK, columns)
            _fetch_ahead(x, out, row * columns + start, row * columns + stop)
            _passed_block(source[row, start:stop], made[row, start:stop], own, low, high, floor)


@partial(_or_without_cache, numba.njit, nogil=True, error_model="numpy", fastmath={"reassoc", "contract"})
def _slope_block(x: Array, out: Array, scale: float, low: float, high: float, floor: float) -> float:
    total = x.dtype.type(0)
    for i in range(len(x)):
        step = np.rint(x[i] / scale)
        clamped = (step < low) | (step > high) | (x[i] <= floor)
        step = low if step < low else step
        step = high if step > high else step
        gradient = out[i]
        through = x.dtype.type(0) if clamped else gradient
        out[i] = through
        total += gradient * (step * scale) - through * x[i]
    return total


@_by_address
def _passed_and_slope(
    x: Any,
    out: Any,
    again: Any,
    scale: Any,
    sums: Any,
    rows: int,
    columns: int,
    channels: int,
    first: int,
    low: float,
    high: float,
    floor: float,
) -> None:
    source, made = numba.carray(x, (rows, columns), np.float32), numba.carray(out, (rows, columns), np.float32)
    scales = numba.carray(scale, (channels,), np.float32)
    total = numba.carray(sums, (rows,), np.float64)
    for row in range(rows):
        total[row], own = 0, scales[(first + row) % channels]
        for start in range(0, columns, _BLOCK):
            stop = min(start + _BLOCK, columns)
            _fetch_ahead(x, out, row * columns + start, row * columns + stop)
            total[row] += _slope_block(source[row, start:stop], made[row, start:stop], own, low, high, floor)


@partial(_or_without_cache, numba.njit, nogil=True, error_model="numpy", fastmath={"reassoc", "contract"})
def _again_block(x: Array, out: Array, again: Array, scale: float, low: float, high: float, floor: float) -> float:
    total = x.dtype.type(0)
    for i in range(len(x)):
        step = np.rint(x[i] / scale)
        clamped = (step < low) | (step > high) | (x[i] <= floor)
        step = low if step < low else step
        step = high if step > high else step
        gradient = out[i]
        through = x.dtype.type(0) if clamped else gradient
        out[i] = through
        again[i] = step * scale
        total += gradient * (step * scale) - through * x[i]
    return total


@_by_address
def _again_and_passed(
    x: Any,
    out: Any,
    again: Any,
    scale: Any,
    sums: Any,
    rows: int,
    columns: int,
    channels: int,
    first: int,
    low: float,
    high: float,
    floor: float,
) -> None:
    source, made = numba.carray(x, (rows, columns), np.float32), numba.carray(out, (rows, columns), np.float32)
    remade, scales = numba.carray(again, (rows, columns), np.float32), numba.carray(scale, (channels,), np.float32)
    total = numba.carray(sums, (rows,), np.float64)
    for row in range(rows):
        total[row], own = 0, scales[(first + row) % channels]
        for start in range(0, columns, _BLOCK):
            stop = min(start + _BLOCK, columns)
            _fetch_ahead(x, out, row * columns + start, row * columns + stop)
            total[row] += _again_block(
                source[row, start:stop], made[row, start:stop], remade[row, start:stop], own, low, high, floor
            )


@partial(_or_without_cache, numba.njit, nogil=True, error_model="numpy", fastmath={"reassoc"})
def _clipped_block(
    x: Array,
    out: Array,
    again: Array,
    scale: float,
    low: float,
    high: float,
    offset: float,
    unit: float,
    inner: float,
    outer: float,
) -> tuple[float, float, float]:
    slope = below = above = x.dtype.type(0)
    back = x.dtype.type(0) - offset  # as in `_onto_grid`
    for i in range(len(x)):
        shifted = x[i] - offset
        steps, place = shifted / scale, shifted / unit
        step = np.rint(steps)
        step = low if step < low else step
        step = high if step > high else step
        gradient = out[i]
        clipped = (place <= inner) | (place >= outer)
        out[i] = x.dtype.type(0) if clipped else gradient
        again[i] = step * scale - back
        slope += gradient * (step - (x.dtype.type(0) if clipped else steps))
        below += gradient if place <= inner else x.dtype.type(0)
        above += gradient if place >= outer else x.dtype.type(0)
    return slope, below, above


@_by_address
def _again_and_clipped(
    x: Any,
    out: Any,
    again: Any,
    scale: Any,
    sums: Any,
    rows: int,
    columns: int,
    channels: int,
    first: int,
    low: float,
    high: float,
    offset: float,
    unit: float,
    inner: float,
    outer: float,
) -> None:
    source, made = numba.carray(x, (rows, columns), np.float32), numba.carray(out, (rows, columns), np.float32)
    remade, scales = numba.carray(again, (rows, columns), np.float32), numba.carray(scale, (channels,), np.float32)
    totals = numba.carray(sums, (rows, 3), np.float64)
    for row in range(rows):
        own = scales[(first + row) % channels]
        for place in range(3):
            totals[row, place] = 0
        for start in range(0, columns, _BLOCK):
            stop = min(start + _BLOCK, columns)
            _fetch_ahead(x, out, row * columns + start, row * columns + stop)
            slope, below, above = _clipped_block(
                source[row, start:stop],
                made[row, start:stop],
                remade[row, start:stop],
                own,
                low,
                high,
                offset,
                unit if unit > 0 else own,
                inner,
                outer,
            )
            totals[row, 0] += slope
            totals[row, 1] += below
            totals[row, 2] += above
