"""A bank of noise, drawn once, from which images cut their texture: drawing it anew would cost more than rendering."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from qdbev.data.synthetic.tokens import generator

SIDE = 512


@lru_cache(maxsize=8)
def bank(smoothness: int) -> NDArray[np.float32]:
    """Unit normal noise (SIDE, SIDE), seamless, smooth over about ``smoothness`` pixels."""
    rng = generator("noise bank", smoothness)
    small = rng.standard_normal((SIDE // smoothness, SIDE // smoothness)).astype(np.float32)
    if smoothness > 1:
        padded = np.pad(small, 2, mode="wrap")
        scaled = cv2.resize(padded, None, fx=smoothness, fy=smoothness, interpolation=cv2.INTER_CUBIC)
        large = np.asarray(scaled, dtype=np.float32)
        small = large[2 * smoothness : 2 * smoothness + SIDE, 2 * smoothness : 2 * smoothness + SIDE]
    return np.ascontiguousarray(small / small.std())


def patch(rng: np.random.Generator, *, shape: tuple[int, int], smoothness: int = 1) -> NDArray[np.float32]:
    """A piece (height, width) of the bank from a random place, repeated where larger than the bank."""
    height, width = shape
    field = bank(smoothness)
    y, x = (int(v) for v in rng.integers(0, SIDE, 2))
    if y + height <= SIDE and x + width <= SIDE:
        return field[y : y + height, x : x + width]
    rows, columns = (np.arange(y, y + height) % SIDE), (np.arange(x, x + width) % SIDE)
    return field[np.ix_(rows, columns)]
