"""Rows of small integers as 32-bit words, and back, in numpy: the layout of compressed-tensors' ``weight_packed``.

Element ``j`` of a row is stored as ``u = q + 2^(k-1)`` in bits ``j k ... j k + k - 1`` of the row, least significant
bit first; an element may lie across two words. Each row begins on a word; unused high bits of its last word are zero.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

PACKED_BITS = tuple(range(2, 9))
_WORD_BITS = 32


def words_per_row(count: int, *, bits: int) -> int:
    """How many words a row of ``count`` integers takes.

    >>> words_per_row(9, bits=4), words_per_row(32, bits=3)
    (2, 3)
    """
    _check_bits(bits)
    return -(-count * bits // _WORD_BITS)


def pack_rows(integers: Array, *, bits: int) -> Array:
    """Pack rows of signed integers.

    Args:
        integers: (rows, count), any integer type, values in ``[-2^(bits-1), 2^(bits-1) - 1]``.
        bits: 2..8.

    Returns:
        int32, little endian, (rows, ``words_per_row``).

    At four bits -8, 7, -7 are 0, 15, 1, the first in the lowest bits: ``0x1f0``.

    >>> pack_rows(np.array([[-8, 7, -7]]), bits=4).tolist()
    [[496]]
    """
    half = 1 << (_check_bits(bits) - 1)
    if integers.size and not -half <= integers.min() <= integers.max() < half:
        raise ValueError(f"integers of {bits} bits lie in [{-half}, {half - 1}], got {_span(integers)}")
    rows, count = integers.shape
    stored = (integers.astype(np.int16) + half).astype(np.uint8)
    digits = np.unpackbits(stored[..., None], axis=2, count=bits, bitorder="little").reshape(rows, count * bits)
    padded = np.pad(digits, ((0, 0), (0, -digits.shape[1] % _WORD_BITS)))
    return np.packbits(padded, axis=1, bitorder="little").view("<i4")


def unpack_rows(words: Array, *, bits: int, count: int) -> Array:
    """The integers of ``pack_rows``, int8, (rows, count).

    Raises:
        ValueError: these are no such rows.

    >>> unpack_rows(np.array([[496]], dtype=np.int32), bits=4, count=3).tolist()
    [[-8, 7, -7]]
    """
    expected = words_per_row(count, bits=bits)
    if words.dtype != np.int32 or words.ndim != 2 or words.shape[1] != expected:
        raise ValueError(
            f"rows of {count} integers of {bits} bits are {expected} words of int32, got {words.shape} of {words.dtype}"
        )
    stream = np.ascontiguousarray(words, dtype="<i4").view(np.uint8)
    digits = np.unpackbits(stream, axis=1, count=count * bits, bitorder="little").reshape(-1, count, bits)
    stored = np.packbits(digits, axis=2, bitorder="little")[..., 0]
    return (stored.astype(np.int16) - (1 << (bits - 1))).astype(np.int8)


def _check_bits(bits: int) -> int:
    if bits not in PACKED_BITS:
        raise ValueError(f"packing holds {PACKED_BITS[0]} to {PACKED_BITS[-1]} bits, got {bits}")
    return bits


def _span(integers: Array) -> str:
    return f"{integers.min()}..{integers.max()}"
