"""The tables of what a model costs: size by the paper's rule and on disk, bit operations per part (Eq. 7)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from qdbev.reporting.tables.reference import count_columns, name_columns, ratio, reference_row
from qdbev.reporting.tables.rounding import bops_unit, count_text, megabytes_text, scaled_text, times_text
from qdbev.reporting.tables.table import Row, Table, name_column, number_column

SIZE_NOTE = "Nominal: trainable parameters × weight bits (the paper's rule), MB = 2^20 bytes; file: what lies on disk."
BOPS_NOTE = "Of one inference over all cameras (Eq. 7)."
_SHOWN_PATHS = 5
NOT_A_PART = ("name", "bits", "total", "ratio")


def size_table(rows: Sequence[Row], *, reference: str, title: str = "Model size") -> Table:
    """Sizes by the paper's rule and as files.

    Args:
        rows: Entries ``name``, ``nominal_bytes`` (trainable parameters x weight bits / 8, the rule behind the paper's
            table 4), ``artifact_bytes`` (what lies on the disk; None where there is no file); optional ``bits``,
            ``parameters``.
        reference: ``name`` of the row that the others are compared with.
        title: Heading.

    Returns:
        The rows with ``nominal_ratio`` and ``artifact_ratio`` added (how many times smaller than the reference).

    Raises:
        ValueError: No row, or more than one, has the reference's name.
    """
    base = reference_row(rows, reference=reference)
    columns = (
        name_column("name", head="model"),
        *name_columns(rows, keys=("bits",)),
        *count_columns(rows, keys=("parameters",)),
        number_column("nominal_bytes", head="nominal MB", rule=megabytes_text),
        number_column("nominal_ratio", head="smaller", rule=times_text),
        number_column("artifact_bytes", head="file bytes", rule=count_text),
        number_column("artifact_ratio", head="smaller", rule=times_text),
    )
    lines = tuple(
        {
            **row,
            "nominal_ratio": ratio(base["nominal_bytes"], to=row["nominal_bytes"]),
            "artifact_ratio": ratio(base.get("artifact_bytes"), to=row.get("artifact_bytes")),
        }
        for row in rows
    )
    return Table("size", title, columns, lines, notes=(SIZE_NOTE,))


def not_counted_notes(paths: Sequence[str]) -> list[str]:
    """A note under bit operations that lack those of some modules; none where all are counted.

    Args:
        paths: Of modules that ran and whose work could not be seen.

    >>> not_counted_notes(["neck.kernel"])
    ['Not counted, as their work cannot be seen: neck.kernel. The operations are more than these.']
    """
    if not paths:
        return []
    more = f" and {len(paths) - _SHOWN_PATHS} more" if len(paths) > _SHOWN_PATHS else ""
    listed = ", ".join(paths[:_SHOWN_PATHS])
    return [f"Not counted, as their work cannot be seen: {listed}{more}. The operations are more than these."]


def bops_table(
    rows: Sequence[Row],
    *,
    reference: str,
    not_counted: Sequence[str] = (),
    title: str = "Bit operations (BOPS)",
) -> Table:
    """Bit operations of one inference, per part and in total (Eq. 7: sum of b_w x b_a x MAC).

    Args:
        rows: One per model and part, entries ``name``, ``part``, ``bops``; optional ``bits``. Parts become columns in
            the order of first appearance; the unit is chosen by the largest total.
        reference: ``name`` of the model that the others are compared with.
        not_counted: Paths of modules whose work is in no row.
        title: Heading.

    Returns:
        One row per model: ``name``, ``bits``, one entry per part, ``total``, ``ratio`` (reference total / total).

    Raises:
        ValueError: The reference is missing, a model has one part twice, or a part is called like another column.
    """
    lines = _pivot_parts(rows)
    base = reference_row(lines, reference=reference)
    divisor, letter = bops_unit(max(line["total"] for line in lines))
    rule = partial(scaled_text, divisor=divisor)
    parts = list(dict.fromkeys(row["part"] for row in rows))
    columns = (
        name_column("name", head="model"),
        *name_columns(rows, keys=("bits",)),
        *(number_column(part, head=part, rule=rule) for part in parts),
        number_column("total", head="total", rule=rule),
        number_column("ratio", head="fewer", rule=times_text),
    )
    finished = tuple({**line, "ratio": ratio(base["total"], to=line["total"])} for line in lines)
    notes = (BOPS_NOTE, *not_counted_notes(not_counted))
    return Table("bops", title, columns, finished, notes=notes, shown_in=f"In {letter}BOPS.")


def _pivot_parts(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One line per model, its parts as entries, and their total."""
    lines: dict[str, dict[str, Any]] = {}
    for row in rows:
        line = lines.setdefault(row["name"], {"name": row["name"], "bits": row.get("bits")})
        if row["part"] in NOT_A_PART:
            raise ValueError(f"a part cannot be called {row['part']!r}: the table has such a column already")
        if row["part"] in line:
            raise ValueError(f"part {row['part']!r} of {row['name']!r} came twice; expected one row per model and part")
        line[row["part"]] = row["bops"]
    return [{**line, "total": sum(line[key] for key in line if key not in NOT_A_PART)} for line in lines.values()]
