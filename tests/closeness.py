"""Equality up to rounding, where rounding may move a few values over a border."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def assert_close_but_few(
    values: NDArray[np.floating], expected: NDArray[np.floating], *, atol: float, few: float
) -> None:
    """All values lie within ``atol`` of the expected ones, but for a share ``few``, which lies within ten times that.

    Another CPU adds in another order. A point on the border of two cells then falls into the other one, and the values
    that it reaches differ by more than rounding.
    """
    difference = np.abs(values - expected)
    assert difference.max() < (10 * atol if few else atol)
    assert (difference > atol).mean() <= few
