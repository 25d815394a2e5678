"""The loops of ``qdbev.quantization.grid.cpu``, compiled by numba: one driver over rows, a function for a block.

Every loop is called by address, with addresses of ``x``, ``out``, ``recomputed``, ``scale`` and ``sums``. It reads
``x`` and writes ``out``, which for a backward pass holds the gradient of the output and then that of the input,
both of (rows, columns); it may write ``recomputed``, as large, and it writes ``sums``, float64 of (rows, sums of a
row). Bytes and sums apart all is float32. Row r has the scale ``(first + r) % channels``. Clamped are integers below
``low`` or above ``high``, and values up to ``floor``.

Both gradients share one array: of two that might overlap the compiler would make a loop without vectors. A function for
a block takes addresses too: handing over views of arrays took a fifth of the time. While a block is worked on, one
further on comes into the cache: left alone, a processor looks no further ahead than to the end of a page of memory.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

Sums = tuple[Any, ...]  # float32 each

_ARRAYS, _SIZES = 5, 4  # arguments of a loop that are addresses, and that are integers
_BLOCK = 128  # elements that are worked on at a time, and summed in float32
_AHEAD = 768  # elements by which the cache is filled ahead: 512 and 1024 were slower
_LINE = 16  # elements in a line of the cache
_FLOAT, _BYTE = 4, 1  # bytes


def _or_without_cache(compile: Callable[..., Any], function: Callable[..., Any], **options: Any) -> Any:
    try:
        return compile(cache=True, **options)(function)
    except RuntimeError:  # no folder to keep the compiled code in
        return compile(**options)(function)


def _by_address(function: Callable[..., Any]) -> Callable[..., None]:
    """Compile for a call by address, which drops the interpreter's lock."""
    limits = function.__code__.co_argcount - _ARRAYS - _SIZES
    signature = types.void(*[types.voidptr] * _ARRAYS, *[types.intp] * _SIZES, *[types.float32] * limits)
    compiled = _or_without_cache(partial(numba.cfunc, signature), function, error_model="numpy")
    entry: Callable[..., None] = compiled.ctypes
    return entry


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


@intrinsic
def _at(typing: Any, address: Any, offset: Any) -> Any:
    """Return the address so many bytes further on."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.gep(arguments[0], [arguments[1]])

    return address(address, types.intp), generate


_inlined: Callable[..., Any] = numba.njit(inline="always")  # a loop that hands on a function is not cached


@_inlined
def _drive(block: Any, arrays: Any, sizes: Any, limits: Any, out_bytes: int, sums_per_row: int) -> None:
    """Run a function for a block over all rows; ``out_bytes`` is the size of an element of ``out``."""
    (x, out, recomputed, scale, sums), (rows, columns, channels, first) = arrays, sizes
    scales, totals = numba.carray(scale, (channels,), np.float32), numba.carray(sums, (rows, sums_per_row), np.float64)
    for row in range(rows):
        for place in range(sums_per_row):
            totals[row, place] = 0
        for start in range(row * columns, (row + 1) * columns, _BLOCK):
            count = min(_BLOCK, (row + 1) * columns - start)
            for element in range(start, start + count, _LINE):
                _fetch(x, _FLOAT * (element + _AHEAD))  # type: ignore[call-arg]
                if out_bytes == _FLOAT:
                    _fetch(out, _FLOAT * (element + _AHEAD))  # type: ignore[call-arg]
            parts = block(
                _at(x, _FLOAT * start),  # type: ignore[call-arg]
                _at(out, out_bytes * start),  # type: ignore[call-arg]
                _at(recomputed, _FLOAT * start),  # type: ignore[call-arg]
                count,
                scales[(first + row) % channels],
                *limits,
            )
            for place in range(sums_per_row):
                totals[row, place] += parts[place]


_block = partial(_or_without_cache, numba.njit, nogil=True, error_model="numpy")


@_block
def _onto_grid(
    x_at: Any,
    out_at: Any,
    recomputed_at: Any,
    count: int,
    scale: float,
    low: float,
    high: float,
    rescale: float,
    offset: float,
) -> Sums:
    x, out = numba.carray(x_at, (count,), np.float32), numba.carray(out_at, (count,), np.float32)
    unit = scale if rescale else np.float32(1)
    back = np.float32(0) - offset  # taking it off, unlike adding the offset, leaves a zero its sign where that is 0
    for i in range(count):
        step = np.rint((x[i] - offset) / scale)
        step = low if step < low else step
        step = high if step > high else step
        out[i] = step * unit - back
    return (np.float32(0),)


@_by_address
def onto_grid(  # type: ignore[no-untyped-def]
    x, out, recomputed, scale, sums, rows, columns, channels, first, low, high, rescale, offset
):
    """Write the steps, times ``scale`` where ``rescale`` is 1, plus ``offset``; the sum of a row is 0."""
    arrays, sizes = (x, out, recomputed, scale, sums), (rows, columns, channels, first)
    _drive(_onto_grid, arrays, sizes, (low, high, rescale, offset), _FLOAT, 1)


@partial(_block, fastmath={"reassoc", "contract"})
def _onto_bytes(
    x_at: Any,
    out_at: Any,
    recomputed_at: Any,
    count: int,
    scale: float,
    low: float,
    high: float,
    zero: float,
    offset: float,
) -> Sums:
    x, out = numba.carray(x_at, (count,), np.float32), numba.carray(out_at, (count,), np.uint8)
    nan_or_zero = np.float32(0)  # stays zero, unless something is no number
    for i in range(count):
        step = np.rint((x[i] - offset) / scale)
        step = low if step < low else step
        step = high if step > high else step
        nan_or_zero += step * np.float32(0)
        out[i] = np.uint8(np.int32(step + zero))
    return (nan_or_zero,)


@_by_address
def onto_bytes(  # type: ignore[no-untyped-def]
    x, out, recomputed, scale, sums, rows, columns, channels, first, low, high, zero, offset
):
    """Write the steps plus ``zero`` as bytes; the sum of a row is 0, or NaN where any of ``x`` is."""
    arrays, sizes = (x, out, recomputed, scale, sums), (rows, columns, channels, first)
    _drive(_onto_bytes, arrays, sizes, (low, high, zero, offset), _BYTE, 1)


@_block
def _grad_input(
    x_at: Any, out_at: Any, recomputed_at: Any, count: int, scale: float, low: float, high: float, floor: float
) -> Sums:
    x, out = numba.carray(x_at, (count,), np.float32), numba.carray(out_at, (count,), np.float32)
    for i in range(count):
        step = np.rint(x[i] / scale)
        clamped = (step < low) | (step > high) | (x[i] <= floor)
        out[i] = np.float32(0) if clamped else out[i]
    return (np.float32(0),)


@_by_address
def grad_input(  # type: ignore[no-untyped-def]
    x, out, recomputed, scale, sums, rows, columns, channels, first, low, high, floor
):
    """Write the gradient of the input; the sum of a row is 0."""
    arrays, sizes = (x, out, recomputed, scale, sums), (rows, columns, channels, first)
    _drive(_grad_input, arrays, sizes, (low, high, floor), _FLOAT, 1)


@partial(_block, fastmath={"reassoc", "contract"})
def _grad_input_and_log_scale(
    x_at: Any, out_at: Any, recomputed_at: Any, count: int, scale: float, low: float, high: float, floor: float
) -> Sums:
    x, out = numba.carray(x_at, (count,), np.float32), numba.carray(out_at, (count,), np.float32)
    grad_log_scale = np.float32(0)
    for i in range(count):
        step = np.rint(x[i] / scale)
        clamped = (step < low) | (step > high) | (x[i] <= floor)
        step = low if step < low else step
        step = high if step > high else step
        grad_output = out[i]
        grad_input = np.float32(0) if clamped else grad_output
        out[i] = grad_input
        grad_log_scale += grad_output * (step * scale) - grad_input * x[i]
    return (grad_log_scale,)


@_by_address
def grad_input_and_log_scale(  # type: ignore[no-untyped-def]
    x, out, recomputed, scale, sums, rows, columns, channels, first, low, high, floor
):
    """Write the gradient of the input; the sum of a row is the gradient of the logarithm of its scale."""
    arrays, sizes = (x, out, recomputed, scale, sums), (rows, columns, channels, first)
    _drive(_grad_input_and_log_scale, arrays, sizes, (low, high, floor), _FLOAT, 1)


@partial(_block, fastmath={"reassoc", "contract"})
def _recomputed_and_grads(
    x_at: Any, out_at: Any, recomputed_at: Any, count: int, scale: float, low: float, high: float, floor: float
) -> Sums:
    x, out = numba.carray(x_at, (count,), np.float32), numba.carray(out_at, (count,), np.float32)
    recomputed = numba.carray(recomputed_at, (count,), np.float32)
    grad_log_scale = np.float32(0)
    for i in range(count):
        step = np.rint(x[i] / scale)
        clamped = (step < low) | (step > high) | (x[i] <= floor)
        step = low if step < low else step
        step = high if step > high else step
        grad_output = out[i]
        grad_input = np.float32(0) if clamped else grad_output
        out[i] = grad_input
        recomputed[i] = step * scale
        grad_log_scale += grad_output * (step * scale) - grad_input * x[i]
    return (grad_log_scale,)


@_by_address
def recomputed_and_grads(  # type: ignore[no-untyped-def]
    x, out, recomputed, scale, sums, rows, columns, channels, first, low, high, floor
):
    """As ``grad_input_and_log_scale``, and write what ``onto_grid`` wrote."""
    arrays, sizes = (x, out, recomputed, scale, sums), (rows, columns, channels, first)
    _drive(_recomputed_and_grads, arrays, sizes, (low, high, floor), _FLOAT, 1)


@partial(_block, fastmath={"reassoc"})
def _recomputed_and_clipped_grads(
    x_at: Any,
    out_at: Any,
    recomputed_at: Any,
    count: int,
    scale: float,
    low: float,
    high: float,
    offset: float,
    level: float,
    inner: float,
    outer: float,
) -> Sums:
    x, out = numba.carray(x_at, (count,), np.float32), numba.carray(out_at, (count,), np.float32)
    recomputed = numba.carray(recomputed_at, (count,), np.float32)
    grad_scale = clipped_low = clipped_high = np.float32(0)
    back = np.float32(0) - offset  # as in `_onto_grid`
    unit = level if level > 0 else scale
    for i in range(count):
        shifted = x[i] - offset
        steps, place = shifted / scale, shifted / unit
        step = np.rint(steps)
        step = low if step < low else step
        step = high if step > high else step
        grad_output = out[i]
        clipped = (place <= inner) | (place >= outer)
        out[i] = np.float32(0) if clipped else grad_output
        recomputed[i] = step * scale - back
        grad_scale += grad_output * (step - (np.float32(0) if clipped else steps))
        clipped_low += grad_output if place <= inner else np.float32(0)
        clipped_high += grad_output if place >= outer else np.float32(0)
    return grad_scale, clipped_low, clipped_high


@_by_address
def recomputed_and_clipped_grads(  # type: ignore[no-untyped-def]
    x, out, recomputed, scale, sums, rows, columns, channels, first, low, high, offset, level, inner, outer
):
    """Write both; the sums of a row are the gradients of its scale and of what is clipped at either end.

    Clipped are values up to ``inner`` and from ``outer`` on, in units of ``level``, or in steps where that is 0.
    """
    arrays, sizes = (x, out, recomputed, scale, sums), (rows, columns, channels, first)
    _drive(_recomputed_and_clipped_grads, arrays, sizes, (low, high, offset, level, inner, outer), _FLOAT, 3)
