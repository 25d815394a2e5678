"""The cells that a centre head looks at."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CentreGrid:
    """A map of the ground, rows along y and columns along x.

    Attributes:
        low_m: x and y of the lower corner.
        cell_m: Side of a cell.
        rows: Cells along y.
        columns: Cells along x.
    """

    low_m: tuple[float, float]
    cell_m: float
    rows: int
    columns: int

    @property
    def cells(self) -> int:
        """How many there are."""
        return self.rows * self.columns
