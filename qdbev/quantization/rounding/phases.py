"""A transposed convolution as ordinary ones: one for each phase of its outputs, with the taps of the kernel it gets.

Tap ``k`` takes input ``q`` to output ``p = s q - P + d k`` (stride ``s``, padding ``P``, dilation ``d``). So outputs
that differ by no multiple of ``s`` share no tap: they are phases, and within one the taps lie ``s / gcd(s, d)`` apart.
Where stride and kernel are alike, as in most upsampling, each tap is a phase of its own and reads single pixels.

Shapes: N positions, I inputs of one output (channels times taps of the phase), O output channels.
"""

from __future__ import annotations

import itertools
import math

import torch.nn.functional as F
from torch import Tensor, nn

Phase = tuple[int, int]
"""The first tap of a phase along both sides of the kernel."""


def phases_of(conv: nn.ConvTranspose2d) -> list[Phase]:
    """Return the phases that any tap reaches.

    >>> phases_of(nn.ConvTranspose2d(1, 1, (3, 1), stride=2))
    [(0, 0), (1, 0)]
    """
    first, second = (range(min(apart, size)) for apart, size in zip(_apart(conv), conv.kernel_size, strict=True))
    return list(itertools.product(first, second))


def taps_of(weight: Tensor, conv: nn.ConvTranspose2d, *, phase: Phase) -> Tensor:
    """Return a view of the weights (O, C, taps) of a phase, of weights with the output channels first."""
    rows, columns = (slice(first, None, apart) for first, apart in zip(phase, _apart(conv), strict=True))
    return weight[..., rows, columns]


def share_of(conv: nn.ConvTranspose2d) -> float:
    """Return the share of the outputs that one phase is, borders aside."""
    return 1 / math.prod(conv.stride)


def phase_patches(image_1CHW: Tensor, conv: nn.ConvTranspose2d, *, phase: Phase, positions: int) -> Tensor:
    """Return what the weights of a phase are multiplied with at evenly spaced places of its outputs, (N, I).

    Args:
        image_1CHW: The input.
        conv: The layer; where it is called with an output size, places at the border may differ.
        phase: One of ``phases_of``.
        positions: As many, up to twice as many, or all.
    """
    sides = [_reach(conv, side, size=image_1CHW.shape[side - 2], first=phase[side]) for side in (0, 1)]
    taps = taps_of(conv.weight, conv, phase=phase).shape[2:]
    spacing = tuple(step // math.gcd(step, stride) for step, stride in zip(conv.dilation, conv.stride, strict=True))
    padded = F.pad(image_1CHW, [*sides[1], *sides[0]])
    columns_CTL = F.unfold(padded, taps, spacing)[0].unflatten(0, (-1, taps.numel()))
    columns_IL = columns_CTL.flip(1).flatten(0, 1)  # the window's last pixel meets the first tap
    return columns_IL[:, :: max(1, columns_IL.shape[1] // positions)].T


def _apart(conv: nn.ConvTranspose2d) -> tuple[int, ...]:
    """How far the taps of a phase lie apart, along both sides."""
    return tuple(stride // math.gcd(stride, step) for stride, step in zip(conv.stride, conv.dilation, strict=True))


def _reach(conv: nn.ConvTranspose2d, side: int, *, size: int, first: int) -> tuple[int, int]:
    """How many pixels before the first and behind the last of a side the outputs of a phase read; below zero, fewer."""
    kernel, stride, padding, step = (
        int(values[side]) for values in (conv.kernel_size, conv.stride, conv.padding, conv.dilation)
    )
    outputs = (size - 1) * stride - 2 * padding + step * (kernel - 1) + conv.output_padding[side] + 1
    shift = padding - first * step  # output p of the phase reads its first tap from input (p + shift) / stride
    lowest, highest = -(-shift // stride), (outputs - 1 + shift) // stride
    behind = range(first, kernel, _apart(conv)[side])[-1] - first
    return behind * step // stride - lowest, highest - (size - 1)
