"""Figures without a screen: size in pixels, one quiet style, PNG or SVG bytes that are the same at every run."""

from __future__ import annotations

import io
from typing import Any, Literal

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

INK = "#5c6570"  # axes and text: readable on white and on black; html.py turns it into the page's own text colour
FAINT = "#8c959f"
BLUE = "#2f6fde"
ORANGE = "#e8710a"
GREEN = "#1a9c50"
DPI = 100
PICTURE_FORMATS = ("png", "svg")
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Helvetica", "Arial", "sans-serif"],
    "font.size": 9.5,
    "svg.fonttype": "none",  # text stays text: small files, searchable
    "svg.hashsalt": "qdbev",  # element names that do not change from run to run
}


def new_figure(*, width_px: int, height_px: int) -> Figure:
    """An empty figure of an exact size in pixels."""
    figure = Figure(figsize=(width_px / DPI, height_px / DPI), dpi=DPI)
    FigureCanvasAgg(figure)
    return figure


def quiet_axes(axes: Axes, *, grid: Literal["x", "y"] = "y") -> None:
    """Leaves of an axes what carries information: no box, faint grid lines along one axis, small grey ticks."""
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(INK)
    axes.spines["bottom"].set_linewidth(0.8)
    axes.tick_params(colors=INK, length=0, labelsize=9)
    axes.tick_params(axis="x", length=3)
    axes.grid(axis=grid, color=FAINT, linewidth=0.6, alpha=0.35)
    axes.set_axisbelow(True)
    axes.patch.set_alpha(0.0)


def label_bar(axes: Axes, text: str, *, end: float, place: float, size: float | None = None) -> None:
    """Writes behind the end of a horizontal bar."""
    axes.annotate(
        text,
        xy=(end, place),
        xytext=(6, 0),
        textcoords="offset points",
        va="center",
        color=INK,
        fontsize=size,
    )


def picture_bytes(figure: Figure, *, form: str) -> bytes:
    """The figure as a file: PNG on white, SVG on nothing (it takes the colour of the page).

    Raises:
        ValueError: the form is neither "png" nor "svg".
    """
    if form not in PICTURE_FORMATS:
        raise ValueError(f"a picture cannot be written as {form!r}; choose one of {', '.join(PICTURE_FORMATS)}")
    out = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        if form == "png":
            figure.savefig(out, format="png", dpi=DPI, facecolor="white", metadata={"Software": None})
        else:
            figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return out.getvalue()
