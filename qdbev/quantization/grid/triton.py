"""The arithmetic of fake quantization on a GPU, compiled by Triton: one launch in place of four to eight.

The same numbers, bit for bit, as the torch operations of ``qdbev.quantization.grid.integers`` and
``qdbev.quantization.grid.fake_quantize``; the gradient of a scale up to the order of summation. Half types are read
and written as they are and computed in float32.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

TYPES = (torch.float32, torch.bfloat16, torch.float16)

_BLOCK = 1024  # elements that a program does at a time


def onto_grid(x: Tensor, *, scale: Tensor, axis: int | None, low: int, high: int, rescale: bool) -> Tensor:
    """Return ``clamp(round(x / scale), low, high)`` in float32, or times ``scale`` again in the type of ``x``."""
    out = torch.empty_like(x, dtype=x.dtype if rescale else torch.float32)
    _run(_onto_grid, [x, out, scale], scale=scale, axis=axis, limits=(low, high), flag=rescale)
    return out


def grad_input(
    grad_output: Tensor, x: Tensor, *, scale: Tensor, axis: int | None, low: int, high: int, in_place: bool = False
) -> Tensor:
    """Return the gradient where ``x`` was not clamped, else zero; negative ``x`` were where ``low`` is 0.

    ``in_place`` lets it write into the gradient of the output.
    """
    grad_output, out = _laid_as(x, grad_output=grad_output, in_place=in_place)
    limits = (low, high, _floor(low))
    _run(_grad_input, [x, grad_output, out, scale, scale], scale=scale, axis=axis, limits=limits, flag=False)
    return out


def grad_input_and_log_scale(
    grad_output: Tensor, x: Tensor, *, scale: Tensor, axis: int | None, low: int, high: int, in_place: bool = False
) -> tuple[Tensor, Tensor]:
    """Return ``grad_input``, and per scale the gradient of its logarithm, without LSQ's factor.

    It is the sum of the gradient of the output times ``S q``, less that of the input times ``x``.
    """
    grad_output, out = _laid_as(x, grad_output=grad_output, in_place=in_place)
    sums = torch.empty(_rows(x, scale=scale, axis=axis)[0], dtype=torch.float32, device=x.device)
    limits = (low, high, _floor(low))
    _run(_grad_input, [x, grad_output, out, scale, sums], scale=scale, axis=axis, limits=limits, flag=True)
    if sums.numel() > scale.numel():
        sums = sums.view(-1, scale.numel()).sum(0)
    return out, sums.view(scale.shape)


def _run(
    kernel: Any, tensors: list[Tensor], *, scale: Tensor, axis: int | None, limits: tuple[float, ...], flag: bool
) -> None:
    """Run a kernel, a program for each row of the first tensor, on the device that it lies on."""
    x = tensors[0]
    rows, columns, channels = _rows(x, scale=scale, axis=axis)
    with torch.cuda.device_of(x):
        kernel[(rows,)](*tensors, x.numel(), columns, channels, *map(float, limits), flag, _BLOCK)


def _rows(x: Tensor, *, scale: Tensor, axis: int | None) -> tuple[int, int, int]:
    """Rows, elements of a row, and scales: row r has the scale r % scales, and a program does a row.

    Without an axis a row is what a program does at a time, the last one shorter.
    """
    channels = scale.numel()
    if channels != (1 if axis is None else x.shape[axis]):
        raise ValueError(f"{channels} scales do not fit a tensor of shape {tuple(x.shape)} along axis {axis}")
    if axis is None:
        return triton.cdiv(x.numel(), _BLOCK), _BLOCK, channels
    rows = math.prod(x.shape[: axis % x.ndim + 1])
    return rows, x.numel() // rows, channels


def _floor(low: int) -> float:
    """Where integers are unsigned, up to this a value is clamped even where it rounds to zero."""
    return -torch.finfo(torch.float32).tiny if low == 0 else -math.inf


def _laid_as(x: Tensor, *, grad_output: Tensor, in_place: bool) -> tuple[Tensor, Tensor]:
    """The gradient in the layout of ``x``, and where that of the input is written."""
    if grad_output.stride() != x.stride():
        grad_output, in_place = torch.empty_like(x).copy_(grad_output), True
    return grad_output, grad_output if in_place else torch.empty_like(grad_output)


# A program does a row of `columns` elements, in the order of memory. Clamped are integers below `low` or above `high`,
# and values up to `floor`.


@triton.jit
def _steps(value, unit):  # type: ignore[no-untyped-def]
    """``round(value / unit)``, half to even; beyond 2^20, where no integer of 17 bits lies, the limit."""
    step = tl.div_rn(value, unit)
    step = tl.where(step < -1048576.0, -1048576.0, step)
    step = tl.where(step > 1048576.0, 1048576.0, step)
    return (step + 12582912.0) - 12582912.0  # 1.5 * 2^23: what is added has no room for a fraction


@triton.jit(do_not_specialize=["channels"])
def _onto_grid(  # type: ignore[no-untyped-def]
    x, out, scale, size, columns, channels, low, high, RESCALE: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0)
    first, unit = row.to(tl.int64) * columns, tl.load(scale + row % channels)
    for start in range(0, columns, BLOCK):
        column = start + tl.arange(0, BLOCK)
        inside = (column < columns) & (first + column < size)
        step = _steps(tl.load(x + first + column, mask=inside, other=0.0).to(tl.float32), unit)
        step = tl.where(step < low, low, step)
        step = tl.where(step > high, high, step)
        tl.store(out + first + column, step * unit if RESCALE else step, mask=inside)


@triton.jit(do_not_specialize=["channels"])
def _grad_input(  # type: ignore[no-untyped-def]
    x,
    grad_output,
    out,
    scale,
    sums,
    size,
    columns,
    channels,
    low,
    high,
    floor,
    SUMMED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The gradient of the input; ``SUMMED`` also writes that of the logarithm of the scale, per row."""
    row = tl.program_id(0)
    first, unit = row.to(tl.int64) * columns, tl.load(scale + row % channels)
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for start in range(0, columns, BLOCK):
        column = start + tl.arange(0, BLOCK)
        inside = (column < columns) & (first + column < size)
        value = tl.load(x + first + column, mask=inside, other=0.0).to(tl.float32)
        grad_out = tl.load(grad_output + first + column, mask=inside, other=0.0).to(tl.float32)
        step = _steps(value, unit)
        clamped = (step < low) | (step > high) | (value <= floor)
        grad_in = tl.where(clamped, 0.0, grad_out)
        tl.store(out + first + column, grad_in, mask=inside)
        if SUMMED:
            step = tl.where(step < low, low, step)
            step = tl.where(step > high, high, step)
            total += grad_out * (step * unit) - grad_in * value
    if SUMMED:
        tl.store(sums + row, tl.sum(total))
