"""The tables of what a model scores: accuracy, paired comparisons, sensitivity (the paper's table 1), classes.

Every function takes flat rows (one mapping per line) and adds what follows from them: differences to the
float row, ratios, ranks. Nothing is measured here.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from qdbev.reporting.tables.reference import count_columns, name_columns, ratio, reference_row
from qdbev.reporting.tables.rounding import change_text, count_text, interval_text, percent_text, score_text
from qdbev.reporting.tables.table import Column, Row, Table, name_column, number_column

ERRORS = ("mATE", "mASE", "mAOE", "mAVE", "mAAE")
CLASS_ERRORS = ("ATE", "ASE", "AOE", "AVE", "AAE")
INTERVAL_NOTE = (
    "NDS − {reference}: paired difference with its 95 % interval over scenes; n.s. (not significant): it holds 0."
)


def accuracy_table(rows: Sequence[Row], *, reference: str, title: str = "Accuracy", name: str = "accuracy") -> Table:
    """NDS, mAP and the five true-positive errors of each model, with differences to one of them.

    Args:
        rows: Entries ``name``, ``NDS``, ``mAP``; optional ``bits`` ("W4A6"), ``made_with``, ``mATE``, ``mASE``,
            ``mAOE``, ``mAVE``, ``mAAE``, and ``NDS_low``, ``NDS_high``: ends of the paired interval of NDS minus the
            reference's NDS.
        reference: ``name`` of the row that the others are compared with, usually the float model.
        title: Heading.
        name: What the table is called in documents.

    Returns:
        The rows with ``NDS_change``, ``NDS_of_reference`` and ``mAP_change`` added.

    Raises:
        ValueError: No row, or more than one, has the reference's name.
    """
    base = reference_row(rows, reference=reference)
    errors = [error for error in ERRORS if any(error in row for row in rows)]
    columns = (
        name_column("name", head="model"),
        *name_columns(rows, keys=("bits", "made_with")),
        number_column("NDS", head="NDS", rule=score_text),
        _change_column(reference=reference),
        number_column("NDS_of_reference", head=f"of {reference}", rule=percent_text),
        number_column("mAP", head="mAP", rule=score_text),
        *(number_column(error, head=error, rule=score_text) for error in errors),
    )
    lines = tuple(_with_changes(row, base=base) for row in rows)
    return Table(name, title, columns, lines, notes=_interval_notes(rows, reference=reference))


def comparison_table(rows: Sequence[Row], *, title: str = "Paired comparisons") -> Table:
    """Answers to "is A better than B?", each with its interval.

    Args:
        rows: Entries ``name`` (A), ``than`` (B), ``NDS_change`` (A minus B); optional ``NDS_low``, ``NDS_high``,
            ``seeds``, ``scenes``.
        title: Heading.

    Returns:
        The rows with ``verdict`` added: "better", "worse", "n.s.", or None without an interval.
    """
    columns = (
        name_column("name", head="model"),
        name_column("than", head="compared with"),
        Column("NDS_change", "NDS difference [95 %]", _interval_cell),
        name_column("verdict", head="difference"),
        *count_columns(rows, keys=("seeds", "scenes")),
    )
    lines = tuple({**row, "verdict": _verdict(row)} for row in rows)
    return Table("comparisons", title, columns, lines)


def sensitivity_table(
    rows: Sequence[Row], *, reference: str, together: str | None = "all", title: str = "Sensitivity"
) -> Table:
    """What each part or module costs when it alone is quantized (the paper's table 1).

    Args:
        rows: Entries ``name``, ``NDS``, ``mAP``; optional ``part``, ``NDS_low``, ``NDS_high`` as in ``accuracy_table``.
        reference: ``name`` of the float row.
        together: ``name`` of the row with everything quantized, which takes no part in the ranking; it may be absent.
        title: Heading.

    Returns:
        The rows with ``NDS_change``, ``NDS_of_reference``, ``mAP_change`` and ``rank`` added: rank 1 has lost most NDS;
        the reference and the row of all together have none.

    Raises:
        ValueError: No row, or more than one, has the reference's name.
    """
    base = reference_row(rows, reference=reference)
    order = rank_by_drop(rows, unranked=(reference, together))
    columns = (
        name_column("name", head="quantized"),
        *name_columns(rows, keys=("part",)),
        number_column("mAP", head="mAP", rule=score_text),
        number_column("mAP_change", head="mAP change", rule=change_text),
        number_column("NDS", head="NDS", rule=score_text),
        _change_column(reference=reference),
        number_column("NDS_of_reference", head=f"of {reference}", rule=percent_text),
        number_column("rank", head="rank", rule=count_text),
    )
    ranks = {name: rank for rank, name in enumerate(order, start=1)}
    lines = tuple({**_with_changes(row, base=base), "rank": ranks.get(row["name"])} for row in rows)
    return Table("sensitivity", title, columns, lines, notes=_interval_notes(rows, reference=reference))


def rank_by_drop(rows: Sequence[Row], *, unranked: Collection[str | None] = ()) -> list[str]:
    """Names of the rows, the one with the lowest NDS first; equals stay in their order.

    Args:
        rows: Entries ``name``, ``NDS``.
        unranked: Names left out (the float row, the row of all together).
    """
    ranked = [row for row in rows if row["name"] not in unranked]
    return [row["name"] for row in sorted(ranked, key=lambda row: row["NDS"])]


def class_table(rows: Sequence[Row], *, title: str = "Classes") -> Table:
    """Average precision and true-positive errors of each class.

    Args:
        rows: Entries ``class``, ``AP``; optional ``ATE``, ``ASE``, ``AOE``, ``AVE``, ``AAE`` (NaN where nuScenes
            defines none).
        title: Heading.
    """
    errors = [error for error in CLASS_ERRORS if any(error in row for row in rows)]
    columns = (
        name_column("class", head="class"),
        number_column("AP", head="AP", rule=score_text),
        *(number_column(error, head=error, rule=score_text) for error in errors),
    )
    return Table("classes", title, columns, tuple(rows))


def _with_changes(row: Row, *, base: Row) -> dict[str, Any]:
    """The row with its differences to the reference; the reference itself has none."""
    is_reference = row is base
    return {
        **row,
        "NDS_change": None if is_reference else row["NDS"] - base["NDS"],
        "NDS_of_reference": ratio(row["NDS"], to=base["NDS"]),
        "mAP_change": None if is_reference else row["mAP"] - base["mAP"],
    }


def _interval_cell(row: Row) -> str:
    return interval_text(row.get("NDS_change"), low=row.get("NDS_low"), high=row.get("NDS_high"))


def _change_column(*, reference: str) -> Column:
    return Column("NDS_change", f"NDS − {reference}", _interval_cell)


def _interval_notes(rows: Sequence[Row], *, reference: str) -> tuple[str, ...]:
    measured = any(row.get("NDS_low") is not None for row in rows)
    return (INTERVAL_NOTE.format(reference=reference),) if measured else ()


def _verdict(row: Row) -> str | None:
    low, high = row.get("NDS_low"), row.get("NDS_high")
    if low is None or high is None:
        return None
    return "n.s." if low <= 0.0 <= high else "better" if low > 0.0 else "worse"
