"""The integers of symmetric linear quantization (QD-BEV, Eq. 1): scales, limits, rounding, and the way back.

Everything that needs integers (training, packing, export, cost) gets them from here, so that they cannot differ.

With ``k`` bits and a range ``r_max = max|r|``:

* rule ``qdbev`` (Eq. 1): ``S = 2 |r_max| / (2^k - 1)``
* rule ``hawq`` (HAWQ-v3): ``S = |r_max| / (2^(k-1) - 1)``
* both: ``q = clamp(round(r / S), -2^(k-1), 2^(k-1) - 1)``, rounding half to even

Eq. 1 puts ``+r_max`` on ``(2^k - 1) / 2``, which is 7.5 at four bits and rounds to 8, one above the largest signed
integer. The paper does not print a clamp, yet none of its integers would fit ``k`` bits without one.

An offset ``beta`` (LSQ+, Bhalgat et al., CVPR Workshops 2020) moves the grid: ``q = clamp(round((r - beta) / S))`` and
back ``q S + beta``.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from qdbev.ops import Bytes
from qdbev.quantization.grid.kernels import cpu_kernel_for, kernel_for

ScaleRule = Literal["qdbev", "hawq"]

_WIDE = (torch.float32, torch.float64)
MIN_BITS = 2
MAX_BITS = 16


def check_bits(bits: int) -> int:
    """Return ``bits`` if it is a width this module can make integers of.

    Raises:
        ValueError: outside 2..16.
    """
    if not isinstance(bits, int) or isinstance(bits, bool) or not MIN_BITS <= bits <= MAX_BITS:
        raise ValueError(f"bits must be an integer from {MIN_BITS} to {MAX_BITS}, got {bits!r}")
    return bits


def check_scale_rule(rule: str) -> str:
    """Return ``rule`` if it is known, else raise ValueError naming the known ones."""
    if rule not in get_args(ScaleRule):
        raise ValueError(f"scale rule must be one of {', '.join(get_args(ScaleRule))}, got {rule!r}")
    return rule


def integer_limits(bits: int, *, narrow_range: bool = False) -> tuple[int, int]:
    """Return the smallest and the largest signed integer of ``bits`` bits.

    Args:
        bits: Width, 2..16.
        narrow_range: Leave out the most negative integer, so that the grid is symmetric about zero.

    >>> integer_limits(4), integer_limits(6), integer_limits(4, narrow_range=True)
    ((-8, 7), (-32, 31), (-7, 7))
    """
    half = 1 << (check_bits(bits) - 1)
    return (1 - half if narrow_range else -half), half - 1


def steps_per_range(bits: int, *, rule: str = "qdbev") -> float:
    """Return ``r_max / S``: 7.5 for Eq. 1 at four bits, 7 for the HAWQ rule.

    >>> steps_per_range(4), steps_per_range(4, rule="hawq"), steps_per_range(6)
    (7.5, 7.0, 31.5)
    """
    check_bits(bits)
    return (2**bits - 1) / 2 if check_scale_rule(rule) == "qdbev" else float(2 ** (bits - 1) - 1)


def scale_of_range(r_max: Tensor, *, bits: int, rule: str = "qdbev") -> Tensor:
    """Return the scale ``S`` of a range, in float32.

    A range of zero (a dead channel) gets the scale 1: its zeros stay zeros and nothing divides by zero.

    Args:
        r_max: Largest magnitude, any shape (one value per tensor, or one per channel).
        bits: Width of the integers.
        rule: ``qdbev`` (Eq. 1) or ``hawq``.

    >>> scale_of_range(torch.tensor([15.0, 7.5, 0.0]), bits=4).tolist()
    [2.0, 1.0, 1.0]
    >>> scale_of_range(torch.tensor([14.0, 7.0]), bits=4, rule="hawq").tolist()
    [2.0, 1.0]
    """
    scale = r_max.detach().abs().to(torch.float32) / steps_per_range(bits, rule=rule)
    return torch.where(scale < torch.finfo(torch.float32).tiny, torch.ones_like(scale), scale)


def range_of_scale(scale: Tensor, *, bits: int, rule: str = "qdbev") -> Tensor:
    """Return the ``r_max`` that a scale belongs to (the inverse of ``scale_of_range``).

    >>> range_of_scale(torch.tensor(2.0), bits=4).item()
    15.0
    """
    return scale * steps_per_range(bits, rule=rule)


def align_scale(scale: Tensor, *, ndim: int, axis: int | None) -> Tensor:
    """View a per-channel scale of shape (C,) so that it broadcasts along ``axis`` of an ``ndim``-dimensional tensor.

    A per-tensor scale (``axis=None``) must have one element and passes as it is.

    >>> align_scale(torch.ones(3), ndim=4, axis=0).shape
    torch.Size([3, 1, 1, 1])
    """
    if axis is None:
        if scale.numel() != 1:
            raise ValueError(f"a per-tensor scale has one element, got {scale.numel()}; give the channel axis")
        return scale.reshape(())
    shape = [1] * ndim
    shape[axis] = -1
    return scale.reshape(shape)


def other_axes(ndim: int, *, axis: int | None) -> list[int] | None:
    """Return all axes but that of the channels, which sums per channel go over; None, which is all, without one.

    >>> other_axes(3, axis=-1), other_axes(3, axis=None)
    ([0, 1], None)
    """
    return None if axis is None else [place for place in range(ndim) if place != axis % ndim]


def round_steps(x: Tensor, *, scale: Tensor) -> Tensor:
    """Return ``round(x / S)``, half to even and not yet clamped, as a new float tensor (float32 for half types).

    It divides, as ONNX QuantizeLinear does; multiplying by ``1 / S`` may differ by one step at exact ties.

    Args:
        x: Real values.
        scale: Broadcastable to ``x`` (see ``align_scale``).

    >>> round_steps(torch.tensor([1.0, 3.0, 5.0, -15.0]), scale=torch.tensor(2.0)).tolist()
    [0.0, 2.0, 2.0, -8.0]
    """
    return in_steps(x, scale=scale).round_()


def in_steps(x: Tensor, *, scale: Tensor) -> Tensor:
    """Return ``x / S`` as a new float tensor (float32 for half types); see ``round_steps``."""
    if x.dtype in _WIDE:
        return torch.div(x, scale)
    return x.to(torch.float32).div_(scale)


def shift(x: Tensor, *, offset: Tensor | None) -> Tensor:
    """Return ``x - beta`` (float32 for half types), or ``x`` itself without an offset.

    >>> shift(torch.tensor([1.5, 2.0]), offset=torch.tensor(0.5)).tolist()
    [1.0, 1.5]
    """
    if offset is None:
        return x
    return (x if x.dtype in _WIDE else x.to(torch.float32)) - offset


def clamped_steps(
    x: Tensor, *, scale: Tensor, low: int, high: int, axis: int | None = None, rescale: bool = False
) -> Tensor:
    """Return ``clamp(round(x / S), low, high)`` as a new float tensor (float32 for half types).

    Training, packing and export all round here. A compiled kernel does the same in one pass, where there is one.

    Args:
        x: Real values.
        scale: One scale, or one per channel of ``axis``, float32.
        low: Smallest integer.
        high: Largest integer.
        axis: The channel axis of a per-channel scale.
        rescale: Multiply by ``S`` again.

    >>> clamped_steps(torch.tensor([1.0, 3.0, 50.0]), scale=torch.tensor(2.0), low=-8, high=7).tolist()
    [0.0, 2.0, 7.0]
    """
    values = x if x.dtype in _WIDE or x.is_cuda else x.to(torch.float32)
    kernel = kernel_for(values, axis=axis)
    if kernel is None:
        aligned = align_scale(scale, ndim=x.ndim, axis=axis)
        steps = round_steps(values, scale=aligned).clamp_(low, high)
        return steps.mul_(aligned) if rescale else steps
    return kernel.onto_grid(values, scale=scale, axis=axis, low=low, high=high, rescale=rescale)


def as_bytes(
    x: Tensor,
    *,
    scale: Tensor,
    low: int,
    high: int,
    axis: int | None = None,
    signed: bool = False,
    offset: Tensor | None = None,
) -> Bytes | None:
    """Return ``clamp(round((x - beta) / S), low, high)`` as the bytes that a CPU multiplies (see ``qdbev.ops``).

    Args:
        x: Real values.
        scale: One scale, or one per channel of ``axis``, float32.
        low: Smallest integer.
        high: Largest integer.
        axis: The channel axis of a per-channel scale.
        signed: Int8, as weights are; else uint8, whose zero is 128 where ``low`` is negative.
        offset: The ``beta`` that integer 0 stands for; the bytes leave it out. None means 0.

    Returns:
        None where there is no compiled kernel, where the integers do not fit, and where ``x`` or the scale holds what
        is no number: integers would hide it.

    >>> as_bytes(torch.tensor([1.0, 3.0, 50.0]), scale=torch.tensor(2.0), low=-8, high=7).values.tolist()
    [128, 130, 135]
    """
    kernel, zero = cpu_kernel_for(x, axis=axis), 128 if low < 0 and not signed else 0
    if kernel is None or low + zero < (-128 if signed else 0) or high + zero > (127 if signed else 255):
        return None
    beta = 0.0 if offset is None else offset.item()
    values = kernel.onto_bytes(x, scale=scale, axis=axis, low=low, high=high, zero=zero, offset=beta)
    if values is None:
        return None
    return Bytes(values.view(torch.int8) if signed else values, scale, zero)


def quantize_int(
    x: Tensor,
    *,
    scale: Tensor,
    bits: int,
    axis: int | None = None,
    narrow_range: bool = False,
    offset: Tensor | None = None,
) -> Tensor:
    """Return the integers of ``x``: int8 up to eight bits, int16 above.

    Args:
        x: Real values, any shape and float type.
        scale: One scale, or one per channel of ``axis``.
        bits: Width of the integers, 2..16.
        axis: The channel axis of a per-channel scale.
        narrow_range: Leave out the most negative integer.
        offset: The value that integer 0 stands for, one element; None means 0.

    With ``r_max = 15`` and four bits, ``S = 2``; ``+15`` would be 8 and is clamped to 7:

    >>> quantize_int(torch.tensor([15.0, -15.0, 4.9, -1.1, 0.9]), scale=torch.tensor(2.0), bits=4).tolist()
    [7, -8, 2, -1, 0]
    """
    low, high = integer_limits(bits, narrow_range=narrow_range)
    steps = clamped_steps(shift(x.detach(), offset=offset), scale=scale, axis=axis, low=low, high=high)
    return steps.to(torch.int8 if bits <= 8 else torch.int16)


def dequantize(integers: Tensor, *, scale: Tensor, axis: int | None = None, offset: Tensor | None = None) -> Tensor:
    """Return ``q S``, or ``q S + beta`` where there is an offset, in the type of the scale.

    >>> dequantize(torch.tensor([7, -8, 0]), scale=torch.tensor(2.0)).tolist()
    [14.0, -16.0, 0.0]
    """
    values = integers.to(scale.dtype) * align_scale(scale, ndim=integers.ndim, axis=axis)
    return values if offset is None else values + offset
