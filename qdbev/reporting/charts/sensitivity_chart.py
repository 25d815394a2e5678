"""Bars of what each part or module costs when it alone is quantized, in the order of the table, with its ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from qdbev.reporting.charts.figure import (
    BLUE,
    GREEN,
    INK,
    ORANGE,
    STYLE,
    label_bar,
    new_figure,
    picture_bytes,
    quiet_axes,
)
from qdbev.reporting.tables.results import rank_by_drop

Row = Mapping[str, Any]

PURPLE, PINK, TEAL = "#8250df", "#d0417f", "#0e8f8f"
COLOURS = (BLUE, PURPLE, GREEN, ORANGE, PINK, TEAL)
BAR_PX = 23
FRAME_PX = 78
LETTER_PX = 6.1


def sensitivity_picture(
    rows: Sequence[Row],
    *,
    reference_nds: float,
    together: str | None = "all",
    top: int | None = 30,
    width_px: int = 1000,
    form: str = "png",
) -> bytes:
    """Draws what each row loses.

    Args:
        rows: Entries ``name``, ``NDS``; optional ``part`` (decides the colour), and ``NDS_low``, ``NDS_high``: ends of
            the interval of NDS minus the reference, drawn as a whisker.
        reference_nds: NDS of the float model.
        together: ``name`` of the row with everything quantized, which has no rank; it may be absent.
        top: How many bars at most, those that lose most; the rest is counted in a line below. None draws all.
        width_px: Width; the height follows from the number of bars.
        form: "png" or "svg".

    Returns:
        The file's bytes.

    Raises:
        ValueError: there is no row, or the form is unknown.
    """
    if not rows:
        raise ValueError("no module to draw: expected at least one row with `name` and `NDS`")
    order = rank_by_drop(rows, unranked=(together,))
    ranks = {name: rank for rank, name in enumerate(order, start=1)}
    most = set(rank_by_drop(rows)[: top or None])
    shown = [{**row, "rank": ranks.get(row["name"])} for row in rows if row["name"] in most]
    with matplotlib.rc_context(STYLE):
        height_px = chart_height_px(len(shown))
        figure = new_figure(width_px=width_px, height_px=height_px)
        left = 30 + LETTER_PX * max(len(_label(row)) for row in shown)
        box = (left / width_px, 52 / height_px, 1 - (left + 74) / width_px, 1 - FRAME_PX / height_px)
        axes = figure.add_axes(box)
        _draw_bars(axes, rows=shown, reference_nds=reference_nds)
        _draw_parts(figure, rows=shown)
        hidden = len(rows) - len(shown)
        rest = f"   ({hidden} more lose less)" if hidden else ""
        axes.set_xlabel(f"NDS lost when this alone is quantized{rest}", color=INK, loc="right")
    return picture_bytes(figure, form=form)


def chart_height_px(bars: int) -> int:
    """Height of the picture for so many bars.

    >>> chart_height_px(5)
    193
    """
    return FRAME_PX + BAR_PX * bars


def part_colours(rows: Sequence[Row]) -> dict[str, str]:
    """One colour for each part, by order of first appearance; rows without a part share the first."""
    parts = dict.fromkeys(str(row.get("part") or "") for row in rows)
    return {part: COLOURS[index % len(COLOURS)] for index, part in enumerate(parts)}


def _label(row: Row) -> str:
    return f"{row['name']}  {row['rank'] or '':>2}"


def _draw_bars(axes: Axes, *, rows: Sequence[Row], reference_nds: float) -> None:
    """Bars to the right are losses; a bar to the left is a gain."""
    quiet_axes(axes, grid="x")
    colours = part_colours(rows)
    places = list(range(len(rows)))
    drops = [reference_nds - row["NDS"] for row in rows]
    fill = [colours[str(row.get("part") or "")] for row in rows]
    axes.barh(places, drops, height=0.62, color=fill)
    for place, row, drop in zip(places, rows, drops, strict=True):
        end = drop
        if row.get("NDS_low") is not None:
            end = max(drop, -row["NDS_low"])
            axes.plot([-row["NDS_high"], -row["NDS_low"]], [place, place], color=INK, linewidth=1.2)
        label_bar(axes, f"{drop:.3f}".replace("-", "−"), end=max(end, 0.0), place=place, size=8.5)
    axes.axvline(0.0, color=INK, linewidth=0.8)
    axes.set_yticks(places, [_label(row) for row in rows])
    axes.tick_params(axis="y", labelsize=8.5)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.margins(x=0.02)


def _draw_parts(figure: Figure, *, rows: Sequence[Row]) -> None:
    """A legend of the parts above the bars, where there are parts."""
    colours = {part: colour for part, colour in part_colours(rows).items() if part}
    if not colours:
        return
    marks = [Line2D([], [], color=colour, linewidth=6, solid_capstyle="butt") for colour in colours.values()]
    figure.legend(
        marks,
        list(colours),
        loc="upper right",
        ncols=len(colours),
        frameon=False,
        labelcolor=INK,
        handlelength=1.0,
        borderaxespad=0.3,
    )
