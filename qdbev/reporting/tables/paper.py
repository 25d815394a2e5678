"""What the paper prints about cost: QD-BEV (Zhang et al., ICCV 2023), table 4, columns model size and BOPS."""

from __future__ import annotations

from typing import NamedTuple


class Printed(NamedTuple):
    """One row of the table.

    Attributes:
        size_mb: Model size [MB].
        bops: Bit operations of one inference.
    """

    size_mb: float
    bops: float


TABLE_4 = {
    "tiny": {"W32A32": Printed(126.8, 62.33e12), "W8A8": Printed(31.7, 3.90e12), "W4A6": Printed(15.9, 1.46e12)},
    "small": {"W32A32": Printed(225.6, 236.13e12), "W8A8": Printed(56.4, 14.76e12), "W4A6": Printed(28.2, 5.53e12)},
    "base": {"W32A32": Printed(262.9, 667.39e12), "W8A8": Printed(65.7, 41.71e12), "W4A6": Printed(32.9, 15.64e12)},
}

WHY_SIZES = (
    "Sizes follow from trainable parameters × bits for tiny and small; base prints 0.8 MB more than its trainable "
    "parameters have."
)
WHY_BOPS = (
    "The paper's BOPS at W8A8 and W4A6 are 64/1024 and 24/1024 of its W32A32, as here; its W32A32 is 0.24 to 0.35 of a "
    "count of all layers for six cameras, by a rule it does not state."
)
