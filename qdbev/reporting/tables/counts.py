"""The tables of what a model would cost, by its numbers alone: size, multiply-accumulates, bit operations."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from qdbev.reporting.tables.costs import BOPS_NOTE, not_counted_notes
from qdbev.reporting.tables.paper import WHY_BOPS, WHY_SIZES
from qdbev.reporting.tables.reference import count_columns, ratio
from qdbev.reporting.tables.rounding import (
    bops_unit,
    megabytes_text,
    milliseconds_text,
    percent_text,
    scaled_text,
    times_text,
)
from qdbev.reporting.tables.table import Column, Row, Table, name_column, number_column

SIZES_NOTE = (
    "Nominal: trainable parameters × weight bits (the paper's rule), MB = 2^20 bytes. Packed: all tensors that are "
    "saved, with scales, frozen parameters and what stays in float; a file adds its list of names."
)
MEMORY_NOTE = (
    "float32, one process, as the tensors of a forward pass live and die. Workspaces of kernels and the allocator's "
    "waste come on top."
)
LATENCY_NOTE = (
    "One frame over all cameras, with a history. Quantized models are simulated here, so their speed on a target is "
    "not measured."
)
MACS_NOTE = (
    "One inference over all cameras with a history: layers with weights by part, attention and sampling apart. "
    "The official code runs the offsets of spatial cross-attention per camera on padded lists, and the regression "
    "branches twice."
)


def sizes_table(rows: Sequence[Row], *, title: str = "Model size by its numbers") -> Table:
    """Sizes by bits.

    Args:
        rows: Entries ``name``, ``bits``, ``parameters``, ``nominal_bytes``, ``packed_bytes``; the first is what the
            others are compared with.
        title: Heading.

    Returns:
        The rows with ``ratio`` and ``packed_ratio`` added.
    """
    first = rows[0]
    lines = tuple(
        {
            **row,
            "ratio": ratio(first["nominal_bytes"], to=row["nominal_bytes"]),
            "packed_ratio": ratio(first["packed_bytes"], to=row["packed_bytes"]),
        }
        for row in rows
    )
    columns = (
        name_column("name", head="model"),
        name_column("bits", head="bits"),
        *count_columns(rows, keys=("parameters",)),
        number_column("nominal_bytes", head="nominal MB", rule=megabytes_text),
        number_column("ratio", head="smaller", rule=times_text),
        number_column("packed_bytes", head="packed MB", rule=megabytes_text),
        number_column("packed_ratio", head="smaller", rule=times_text),
    )
    return Table("size", title, columns, lines, notes=(SIZES_NOTE,))


def memory_table(rows: Sequence[Row], *, title: str = "Memory, estimated") -> Table:
    """Memory by what is done.

    Args:
        rows: Entries ``name``, ``batch``, ``bytes``.
        title: Heading.
    """
    columns = (
        name_column("name", head="for"),
        *count_columns(rows, keys=("batch",)),
        number_column("bytes", head="MB", rule=megabytes_text),
    )
    return Table("memory", title, columns, tuple(rows), notes=(MEMORY_NOTE,), shown_in="In MB of 2^20 bytes.")


def latency_table(rows: Sequence[Row], *, device: str, frames: int) -> Table:
    """Measured latency by part.

    Args:
        rows: Entries ``part``, ``median_s``, ``low_s``, ``high_s`` (the quickest and the slowest frame), ``share`` of
            the whole.
        device: What ran it.
        frames: How many were timed.
    """
    columns = (
        name_column("part", head="part"),
        number_column("median_s", head="median", rule=milliseconds_text),
        number_column("low_s", head="fastest", rule=milliseconds_text),
        number_column("high_s", head="slowest", rule=milliseconds_text),
        number_column("share", head="share", rule=percent_text),
    )
    title = f"Latency of the float model, measured on {device}"
    notes = (f"Of {frames} frames. {LATENCY_NOTE}",)
    return Table("latency", title, columns, tuple(rows), notes=notes, shown_in="In milliseconds.")


def macs_table(rows: Sequence[Row], *, parts: Sequence[str], title: str = "Multiply-accumulates (MAC)") -> Table:
    """MACs by part.

    Args:
        rows: Entries ``name``, one per part, ``total`` (layers), ``attention_product``, ``sampling``.
        parts: Names of the parts.
        title: Heading.
    """
    keys = (*parts, "total", "attention_product", "sampling")
    heads = {"attention_product": "attention products"}
    divisor, letter = bops_unit(max(row["total"] for row in rows))
    rule = partial(scaled_text, divisor=divisor)
    columns = (
        name_column("name", head="counted as"),
        *(number_column(key, head=heads.get(key, key), rule=rule) for key in keys),
    )
    return Table("macs", title, columns, tuple(rows), notes=(MACS_NOTE,), shown_in=f"In {letter}MAC.")


def operations_table(
    rows: Sequence[Row],
    *,
    parts: Sequence[str],
    not_counted: Sequence[str] = (),
    title: str = "Bit operations (BOPS)",
) -> Table:
    """Eq. 7 by bits and part.

    Args:
        rows: Entries ``bits``, one per part, ``total``, ``official`` (the same, as the official code runs), and
            ``paper`` where the paper prints a number; the first is what the others are compared with.
        parts: Names of the parts.
        not_counted: Paths of modules whose work is in no row.
        title: Heading.

    Returns:
        The rows with ``ratio`` added.
    """
    divisor, letter = bops_unit(max(row["total"] for row in rows))
    rule = partial(scaled_text, divisor=divisor)
    in_paper = any("paper" in row for row in rows)
    columns = (
        name_column("bits", head="bits"),
        *(number_column(part, head=part, rule=rule) for part in parts),
        number_column("total", head="total", rule=rule),
        number_column("ratio", head="fewer", rule=times_text),
        number_column("official", head="official code", rule=rule),
        *((number_column("paper", head="paper", rule=rule),) if in_paper else ()),
    )
    lines = tuple({**row, "ratio": ratio(rows[0]["total"], to=row["total"])} for row in rows)
    notes = (BOPS_NOTE, *((WHY_BOPS,) if in_paper else ()), *not_counted_notes(not_counted))
    return Table("bops", title, columns, lines, notes=notes, shown_in=f"In {letter}BOPS.")


def compared_table(rows: Sequence[Row], *, title: str = "Table 4 of the paper, efficiency") -> Table:
    """The paper's sizes and BOPS beside ours.

    Args:
        rows: Entries ``model``, ``bits``, ``paper_mb``, ``size_mb``, ``paper_bops``, ``bops``.
        title: Heading.

    Returns:
        The rows with ``size_deviation`` (ours / paper - 1) and ``bops_ratio`` (paper / ours) added.
    """
    tera = partial(scaled_text, divisor=1e12)
    columns: tuple[Column, ...] = (
        name_column("model", head="model"),
        name_column("bits", head="bits"),
        number_column("paper_mb", head="paper MB", rule=lambda value: f"{value:.1f}"),
        number_column("size_mb", head="ours MB", rule=lambda value: f"{value:.2f}"),
        number_column("size_deviation", head="deviation", rule=percent_text),
        number_column("paper_bops", head="paper TBOPS", rule=tera),
        number_column("bops", head="ours TBOPS", rule=tera),
        number_column("bops_ratio", head="paper / ours", rule=percent_text),
    )
    lines = tuple(
        {
            **row,
            "size_deviation": row["size_mb"] / row["paper_mb"] - 1,
            "bops_ratio": ratio(row["paper_bops"], to=row["bops"]),
        }
        for row in rows
    )
    return Table("paper", title, columns, lines, notes=(WHY_SIZES, WHY_BOPS))
