"""What the tables share: the row that others are compared with, ratios to it, columns for optional entries."""

from __future__ import annotations

from collections.abc import Sequence

from qdbev.reporting.tables.rounding import count_text
from qdbev.reporting.tables.table import Column, Row, name_column, number_column


def reference_row(rows: Sequence[Row], *, reference: str) -> Row:
    """The one row with this ``name``.

    Raises:
        ValueError: No row, or more than one, has it.
    """
    matches = [row for row in rows if row["name"] == reference]
    if len(matches) != 1:
        names = ", ".join(str(row["name"]) for row in rows) or "none"
        raise ValueError(f"{len(matches)} rows are named {reference!r}, expected one; the rows are: {names}")
    return matches[0]


def ratio(numerator: float | None, *, to: float | None) -> float | None:
    """A quotient; None where one of the two is unknown or the divisor is zero.

    >>> ratio(1024.0, to=24.0), ratio(None, to=24.0)
    (42.666666666666664, None)
    """
    return None if numerator is None or not to else numerator / to


def count_columns(rows: Sequence[Row], *, keys: Sequence[str]) -> list[Column]:
    """A column of whole numbers for each of the keys that some row has."""
    return [number_column(key, head=key, rule=count_text) for key in _present(rows, keys=keys)]


def name_columns(rows: Sequence[Row], *, keys: Sequence[str]) -> list[Column]:
    """A column of names for each of the keys that some row has."""
    return [name_column(key, head=key.replace("_", " ")) for key in _present(rows, keys=keys)]


def _present(rows: Sequence[Row], *, keys: Sequence[str]) -> list[str]:
    return [key for key in keys if any(row.get(key) is not None for row in rows)]
