"""Rows of integers as words: literal words, the bytes of ``pack_bits`` where rows fill words, any rows back again."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from qdbev.export.packed.words import PACKED_BITS, pack_rows, unpack_rows, words_per_row
from qdbev.quantization import pack_bits


def test_words_by_hand() -> None:
    # 3 bits: -4, 3, 0, 1 are 0, 7, 4, 5 -> 0b101_100_111_000; 6 bits: 31 is 63 across the border of two words
    assert pack_rows(np.array([[-4, 3, 0, 1]]), bits=3).tolist() == [[0b101_100_111_000]]
    assert pack_rows(np.array([[-32] * 5 + [31]]), bits=6).tolist() == [[-(1 << 30), 0b1111]]
    assert pack_rows(np.array([[127, -128], [-127, 0]]), bits=8).tolist() == [[255], [1 + (128 << 8)]]


@pytest.mark.parametrize("bits", PACKED_BITS)
def test_rows_that_fill_words_are_the_bytes_of_the_dense_stream(bits: int) -> None:
    half = 1 << (bits - 1)
    integers = np.random.default_rng(bits).integers(-half, half, size=(3, 32))
    dense = pack_bits(torch.from_numpy(integers), bits=bits)
    assert pack_rows(integers, bits=bits).tobytes() == dense.numpy().tobytes()


@given(st.data(), st.sampled_from(PACKED_BITS))
def test_rows_come_back(data: st.DataObject, bits: int) -> None:
    half = 1 << (bits - 1)
    shape = data.draw(array_shapes(min_dims=2, max_dims=2, max_side=40))
    integers = data.draw(arrays(np.int8, shape, elements=st.integers(-half, half - 1)))
    words = pack_rows(integers, bits=bits)
    assert words.shape == (shape[0], words_per_row(shape[1], bits=bits))
    assert np.array_equal(unpack_rows(words, bits=bits, count=shape[1]), integers)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"lie in \[-8, 7\], got -9\.\.0"):
        pack_rows(np.array([[-9, 0]]), bits=4)
    with pytest.raises(ValueError, match="2 to 8 bits, got 9"):
        pack_rows(np.zeros((1, 1), dtype=np.int8), bits=9)
    with pytest.raises(ValueError, match="rows of 9 integers of 4 bits are 2 words of int32, got"):
        unpack_rows(np.zeros((1, 1), dtype=np.int32), bits=4, count=9)
