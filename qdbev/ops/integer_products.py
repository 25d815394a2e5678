"""Linear layers and convolutions of bytes, where a CPU multiplies bytes (AVX2 and later): oneDNN, by way of torch.

The products of integers are summed exactly, in 32 bits, and the sums multiplied by the scales in float32. So the output
is that of the float layer on the values which the integers stand for, with less rounding. On CPUs without AVX-512 VNNI
that holds for weights of up to 7 bits, see ``integer_weight_bits``.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor

_OUT: tuple[Any, ...] = (1.0, 0, torch.float32, "none", [], "")  # scale, zero, type; nothing more is done with it


class Bytes(NamedTuple):
    """Integers and what they stand for, ``scale * (values - zero)``.

    Attributes:
        values: uint8, or for weights int8, whose zero is 0 and which ``integer_weight_bits`` limits.
        scale: one element, or for weights one per output channel, float32.
        zero: the integer that stands for zero.
    """

    values: Tensor
    scale: Tensor
    zero: int = 0


@functools.cache
def integer_weight_bits() -> int:
    """Bits of the widest weights whose products with bytes this CPU sums exactly; 0 where it multiplies no bytes.

    8 with AVX-512 VNNI. Other AVX2 or AVX-512 sums two products in 16 bits before they go to 32, and cuts what does not
    fit: 7, since 2 * 255 * 64 < 2^15. 0 on others, and where torch lacks what asks for it.
    """
    if not torch.backends.mkldnn.is_available():
        return 0
    supported = {8: getattr(torch.cpu, "_is_vnni_supported", None), 7: getattr(torch.cpu, "_is_avx2_supported", None)}
    return next((bits for bits, says in supported.items() if says is not None and says() and _is_exact(bits)), 0)


def _is_exact(bits: int) -> bool:
    """Whether the largest products of weights of so many bits come out right, and torch knows the call."""
    largest, place = (1 << bits - 1) - 1, {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1}
    with torch.device("cpu"):
        values = torch.full((16, 64), 255, dtype=torch.uint8)
        weights, scale = torch.full((16, 64), largest, dtype=torch.int8), torch.ones(())
        image, kernel = Bytes(values[..., None, None], scale), Bytes(weights[..., None, None], scale)
        try:
            of_rows = linear(Bytes(values, scale), Bytes(weights, scale), None)
            of_images = convolution(image, kernel, None, **place)  # type: ignore[arg-type]
        except (AttributeError, RuntimeError):  # another signature in another torch
            return False
    return bool((of_rows == 64 * 255 * largest).all() and (of_images == 64 * 255 * largest).all())


def linear(x: Bytes, weight: Bytes, bias: Tensor | None, *, offset: Tensor | None = None) -> Tensor:
    """As ``F.linear``: ``x`` (..., I), ``weight`` (O, I), result (..., O) in float32.

    ``offset``, one element, is added to what the bytes of ``x`` stand for.
    """
    ops, sizes = torch.ops.onednn, x.values.shape
    if offset is not None:
        bias = _plus(bias, offset * _summed(weight).view(-1))
    rows = x.values.reshape(-1, sizes[-1])
    packed = ops.qlinear_prepack(weight.values.contiguous(), rows.shape)  # it does not look at strides
    out: Tensor = ops.qlinear_pointwise(rows, x.scale.item(), x.zero, packed, *_grid(weight), _dense(bias), *_OUT)
    return out.view(*sizes[:-1], -1)


def convolution(
    x: Bytes,
    weight: Bytes,
    bias: Tensor | None,
    *,
    offset: Tensor | None = None,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
) -> Tensor:
    """As ``F.conv2d``: ``x`` (B, I, H, W), ``weight`` (O, I / groups, h, w), result (B, O, H', W') in float32.

    ``offset``, one element, is added to what the bytes of ``x`` stand for, but not to the zeros around them.

    The result lies channels last if one of both does, as that of the float layer does.

    Raises:
        ValueError: one input channel for each group, where oneDNN's kernels for bytes give wrong results in places.
    """
    if weight.values.shape[1] < 2:
        raise ValueError("a convolution of bytes needs two input channels for each group; this one has one: use floats")
    ops, scale, place = torch.ops.onednn, x.scale.item(), (stride, padding, dilation, groups)
    grid, of_offset = _grid(weight), None
    if offset is not None and any(padding):  # where a corner of the filter is outside, it gets less
        image = offset.expand(1, 1, *x.values.shape[2:])
        of_offset = torch.conv2d(image, _summed(weight), None, stride, padding, dilation)
    elif offset is not None:
        bias = _plus(bias, offset * _summed(weight).sum((1, 2, 3)))
    packed = ops.qconv_prepack(weight.values, grid[0], scale, x.zero, *place, x.values.shape)
    out: Tensor = ops.qconv2d_pointwise(x.values, scale, x.zero, packed, *grid, _dense(bias), *place, *_OUT)
    out = out if _lies_last(x.values) or _lies_last(weight.values) else out.contiguous()
    return out if of_offset is None else out.add_(of_offset)


def _lies_last(x: Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def _summed(weight: Bytes) -> Tensor:
    """What the weights of all input channels stand for together: (O, 1, ...) in float32."""
    scale = weight.scale.to(torch.float32).view(-1, *[1] * (weight.values.ndim - 1))
    return weight.values.sum(1, keepdim=True, dtype=torch.float32) * scale


def _plus(bias: Tensor | None, more: Tensor) -> Tensor:
    return more if bias is None else more + bias


def _dense(bias: Tensor | None) -> Tensor | None:
    """What oneDNN reads without a look at strides."""
    return None if bias is None else bias.to(torch.float32).contiguous()


def _grid(weight: Bytes) -> tuple[Tensor, Tensor]:
    """Scales and zeros, one per output channel."""
    scale = weight.scale.to(torch.float32).reshape(-1).expand(weight.values.shape[0]).contiguous()
    return scale, torch.zeros(len(scale), dtype=torch.int32)
