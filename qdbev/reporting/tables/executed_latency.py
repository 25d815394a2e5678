"""Tables of what an exported detector takes: whole frames beside its rivals, by part, by operator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from qdbev.reporting.tables.rounding import milliseconds_text, percent_text
from qdbev.reporting.tables.table import Row, Table, name_column, number_column

_DEAREST = 8


def latencies_table(rows: Sequence[Row], *, device: str, frames: int) -> Table:
    """Whole frames.

    Args:
        rows: Entries ``name``, ``median_s``, ``low_s``, ``high_s``, ``times`` (as fast as float ONNX Runtime),
            ``layers`` in integers, ``integer_share`` of the time.
        device: What ran them.
        frames: How many each.
    """
    columns = (
        name_column("name", head="run as"),
        number_column("median_s", head="median", rule=milliseconds_text),
        number_column("low_s", head="fastest", rule=milliseconds_text),
        number_column("high_s", head="slowest", rule=milliseconds_text),
        number_column("times", head="× float ORT", rule=lambda value: f"{value:.2f}"),
        name_column("layers", head="layers in integers"),
        number_column("integer_share", head="time in integers", rule=percent_text),
    )
    notes = (f"{frames} frames each, in turn; one frame that follows another, images are noise",)
    title = f"Latency of the exported detector, measured on {device}"
    return Table("executed_latency", title, columns, tuple(rows), notes=notes, shown_in="In milliseconds.")


def parts_table(parts: Mapping[str, Mapping[str, float]]) -> Table:
    """Seconds of each part, a column for each way to run it.

    Args:
        parts: Way -> part -> seconds of one frame.
    """
    names = list(next(iter(parts.values())))
    rows = [{"part": part, **{way: seconds.get(part, 0.0) for way, seconds in parts.items()}} for part in names]
    columns = (
        name_column("part", head="part"),
        *(number_column(way, head=way, rule=milliseconds_text) for way in parts),
    )
    notes = ("by ONNX Runtime's own profile, which slows small operators",)
    return Table("latency_by_part", "Latency by part", columns, tuple(rows), notes=notes, shown_in="In milliseconds.")


def operators_table(operators: Mapping[str, float], *, name: str) -> Table:
    """The dearest operators of one way to run it.

    Args:
        operators: Kind -> seconds of one frame.
        name: The way.
    """
    whole = sum(operators.values())
    dearest = sorted(operators.items(), key=lambda entry: -entry[1])[:_DEAREST]
    rows = [{"operator": kind, "seconds": seconds, "share": seconds / whole} for kind, seconds in dearest]
    columns = (
        name_column("operator", head="operator"),
        number_column("seconds", head="a frame", rule=milliseconds_text),
        number_column("share", head="share", rule=percent_text),
    )
    title = f"Dearest operators of {name}"
    return Table("latency_by_operator", title, columns, tuple(rows), shown_in="In milliseconds.")
