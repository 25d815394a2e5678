"""A table of plain rows and its forms: text and Markdown (rounded, by tabulate), CSV and JSON (full precision).

Rows hold plain units whatever a column shows: BOPS, MAC, bytes, seconds, and fractions of 1.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from tabulate import tabulate

from qdbev.reporting.tables.folding import broken, groups
from qdbev.reporting.tables.rounding import value_text

Row = Mapping[str, Any]

FORMATS = ("text", "md", "csv", "json")
TABULATE_FORMATS = {"text": "simple", "md": "pipe"}


@dataclass(frozen=True)
class Column:
    """One column as people read it.

    Attributes:
        key: The row entry the column stands for; it is what an HTML table sorts by.
        head: Heading.
        text: Makes the cell's text from the whole row.
        right: Whether cells are set to the right (numbers) or to the left (names).
    """

    key: str
    head: str
    text: Callable[[Row], str]
    right: bool = True


@dataclass(frozen=True)
class Table:
    """Rows with the columns that people see. CSV and JSON hold every entry of the rows, seen or not, in plain units.

    Attributes:
        name: Short name for files and JSON (``accuracy``).
        title: Heading above the table.
        columns: The columns in order.
        rows: One mapping per line; values are str, int, float, bool or None.
        notes: Sentences below the table (rules, what is compared with what).
        shown_in: The sentence on the unit that the columns show, where it is not that of the rows; CSV and JSON leave
            it out.
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = field(default=())
    shown_in: str = ""

    @property
    def remarks(self) -> tuple[str, ...]:
        """What stands below the columns: their unit, and the notes."""
        return (self.shown_in, *self.notes) if self.shown_in else self.notes

    @property
    def keys(self) -> tuple[str, ...]:
        """Every entry of the rows, in the order of first appearance."""
        return tuple(dict.fromkeys(key for row in self.rows for key in row))

    @property
    def cells(self) -> list[list[str]]:
        """The texts, line by line."""
        return [[column.text(row) for column in self.columns] for row in self.rows]


def name_column(key: str, *, head: str) -> Column:
    """A column of names, set to the left; a missing name is left empty."""
    return Column(key=key, head=head, text=lambda row: str(row.get(key) or ""), right=False)


def number_column(key: str, *, head: str, rule: Callable[[Any], str]) -> Column:
    """A column of numbers, written by a rule of ``rounding``."""
    return Column(key=key, head=head, text=lambda row: rule(row.get(key)))


def plain_table(
    name: str,
    *,
    title: str,
    headers: Sequence[str],
    rows: Iterable[Sequence[Any]],
    keys: Sequence[str] = (),
    notes: Iterable[str] = (),
    rules: Mapping[str, Callable[[Any], str]] = MappingProxyType({}),
) -> Table:
    """A table of values as they come: numbers to the right, all else to the left.

    Args:
        name: Short name for files and JSON.
        title: Heading above the table; empty leaves it out.
        headers: Heads of the columns.
        rows: Values, one for each head.
        keys: Names of the row entries; the heads where none are given.
        notes: Sentences below the table.
        rules: Of ``rounding``, for entries that are not written as they come.
    """
    keys = keys or headers
    lines = tuple(dict(zip(keys, row, strict=True)) for row in rows)
    columns = tuple(
        number_column(key, head=head, rule=rules[key]) if key in rules else _value_column(key, head=head, rows=lines)
        for key, head in zip(keys, headers, strict=True)
    )
    return Table(name, title, columns, lines, notes=tuple(notes))


def _value_column(key: str, *, head: str, rows: Sequence[Row]) -> Column:
    numeric = all(row[key] is None or isinstance(row[key], int | float) for row in rows)
    return Column(key=key, head=head, text=lambda row: value_text(row[key]), right=numeric)


def render(table: Table, *, form: str = "text", width: int | None = None) -> str:
    """Write a table in one of the four forms.

    Args:
        table: What to write.
        form: ``text`` for a terminal, ``md`` for a README, ``csv`` or ``json`` for programs.
        width: Characters in a line of a terminal, which text is folded to; None folds nothing.

    Returns:
        The text, ended by one line break.

    Raises:
        ValueError: The form is unknown.
    """
    if form in ("csv", "json"):
        return render_all([table], form=form)
    if form not in TABULATE_FORMATS:
        raise ValueError(f"a table cannot be written as {form!r}; choose one of {', '.join(FORMATS)}")
    return _readable(table, form=form, width=width if form == "text" else None)


def render_all(tables: Sequence[Table], *, form: str = "text") -> str:
    """Write several tables as one text.

    As JSON they are one object with the entry ``tables``, each of them as in ``as_document``. As CSV they are one table
    in long form: a line for each number, ``metric`` and ``value``, behind the table's name and the words of its row.
    """
    if form == "json":
        documents = {"tables": [as_document(table) for table in tables]}
        return json.dumps(documents, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    if form == "csv":
        return _csv(tables)
    return "\n".join(render(table, form=form) for table in tables)


def as_document(table: Table) -> dict[str, Any]:
    """The table as plain JSON values, unrounded: names of the entries once, and the values of every row.

    NaN and infinities, which JSON does not know, become null.
    """
    keys = table.keys or tuple(column.key for column in table.columns)
    rows = [[_known_value(row.get(key)) for key in keys] for row in table.rows]
    return {
        "name": table.name,
        "title": table.title,
        "headers": list(keys),
        "rows": rows,
        "notes": list(table.notes),
    }


def _known_value(value: Any) -> Any:
    """None for NaN and infinities; what numpy and torch wrap, plain."""
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _csv(tables: Sequence[Table]) -> str:
    """Full precision: floats are written by repr, so reading them back gives the same numbers; unknown is left out."""
    entries = [(table.name, row) for table in tables for row in table.rows]
    words = dict.fromkeys(key for _, row in entries for key, value in row.items() if isinstance(value, str))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["table", *words, "metric", "value"])
    for name, row in entries:
        told = [row.get(key) or "" for key in words]
        numbers = {key: _known_value(value) for key, value in row.items() if key not in words}
        writer.writerows([name, *told, key, value] for key, value in numbers.items() if value is not None)
    return out.getvalue()


def _readable(table: Table, *, form: str, width: int | None) -> str:
    lines: Sequence[Sequence[str]] = [[column.head for column in table.columns], *table.cells]
    if form == "md":
        lines = [[_escape(cell) for cell in line] for line in lines]
    sides = ["right" if column.right else "left" for column in table.columns]
    places = [list(range(len(sides)))]
    if width is not None:
        lines = broken(lines, texts=[not column.right for column in table.columns], width=width)
        places = groups(lines, width=width)
    body = "\n\n".join(_body(lines, sides=sides, places=group, form=form) for group in places)
    if form == "md":
        notes = "".join(f"\n{note}\n" for note in table.remarks)
        return f"### {table.title}\n\n{body}\n{notes}"
    title = f"{table.title}\n\n" if table.title else ""
    notes = "".join(f"{note}\n" for note in table.remarks)
    return f"{title}{body}\n" + (f"\n{notes}" if notes else "")


def _body(lines: Sequence[Sequence[str]], *, sides: Sequence[str], places: Sequence[int], form: str) -> str:
    """Some columns of a table, the first line as heads."""
    heads, *cells = [[line[place] for place in places] for line in lines]
    return tabulate(
        cells,
        headers=heads,
        tablefmt=TABULATE_FORMATS[form],
        colalign=[sides[place] for place in places] if cells else None,
        disable_numparse=True,
    )


def _escape(cell: str) -> str:
    """A bar inside a Markdown cell would start a new one."""
    return cell.replace("|", "\\|").replace("\n", " ")
