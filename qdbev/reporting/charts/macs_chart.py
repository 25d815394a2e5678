"""Bars of the multiply-accumulates of each part of a detector, operations without weights apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib

from qdbev.reporting.charts.figure import BLUE, FAINT, INK, STYLE, label_bar, new_figure, picture_bytes, quiet_axes
from qdbev.reporting.tables.rounding import bops_unit, percent_text, scaled_text

BAR_PX = 30
FRAME_PX = 62


def macs_picture(
    macs: Mapping[str, float], *, operations: Sequence[str], title: str, width_px: int = 760, form: str = "png"
) -> bytes:
    """Draws one bar for each entry, with its share of the layers' sum.

    Args:
        macs: Multiply-accumulates by name, in the order of the bars.
        operations: Names among them that are no layers: drawn pale, and without a share.
        title: What was counted.
        width_px: Width; the height follows from the number of bars.
        form: "png" or "svg".

    Returns:
        The file's bytes.

    Raises:
        ValueError: there is nothing to draw, or the form is unknown.
    """
    if not macs:
        raise ValueError("no part to draw: expected at least one entry")
    divisor, letter = bops_unit(max(macs.values()))
    total = sum(value for name, value in macs.items() if name not in operations)
    places = list(range(len(macs)))
    with matplotlib.rc_context(STYLE):
        figure = new_figure(width_px=width_px, height_px=FRAME_PX + BAR_PX * len(macs))
        bottom = 30 / figure.bbox.height
        axes = figure.add_axes((0.19, bottom, 0.66, 1 - bottom - 28 / figure.bbox.height))
        quiet_axes(axes, grid="x")
        colours = [FAINT if name in operations else BLUE for name in macs]
        axes.barh(places, [value / divisor for value in macs.values()], height=0.6, color=colours)
        for place, (name, value) in zip(places, macs.items(), strict=True):
            share = "" if name in operations else f"  {percent_text(value / total if total else 0.0)}"
            label = f"{scaled_text(value, divisor=divisor)} {letter}{share}"
            label_bar(axes, label, end=value / divisor, place=place)
        axes.set_yticks(places, list(macs))
        axes.set_ylim(len(macs) - 0.5, -0.5)
        axes.set_title(title, color=INK, loc="left", fontsize=9.5)
    return picture_bytes(figure, form=form)
