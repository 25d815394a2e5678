"""Draw docs/images/methods.svg from docs/methods.json: the NDS that every method loses, at every width.

python scripts/methods_picture.py
"""

from __future__ import annotations

import argparse
from statistics import mean

import matplotlib
from matplotlib.axes import Axes
from method_rows import BEFORE_TRAINING, BITS, FLOAT, LEDGER, METHODS
from methods_page import Runs, read

from qdbev.reporting.charts.figure import BLUE, GREEN, INK, ORANGE, STYLE, new_figure, picture_bytes, quiet_axes

PICTURE = LEDGER.parent / "images" / "methods.svg"
LEAST = 5e-4  # smaller losses, and gains, stand at the left edge
COLOURS = dict(zip(BITS, (GREEN, BLUE, ORANGE), strict=True))
WIDTH_PX, LEFT_PX, TOP_PX, BOTTOM_PX, ROW_PX = 1000, 350, 40, 56, 21


def main() -> None:
    """Write the picture."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    PICTURE.write_bytes(picture(read(LEDGER)))


def picture(runs: Runs) -> bytes:
    """SVG: a line for each method, a dot for the mean of each width, a whisker from its best seed to its worst."""
    names = [name for name, method in METHODS.items() if any((name, bits) in runs for bits in BITS) and name != FLOAT]
    height_px = TOP_PX + BOTTOM_PX + ROW_PX * len(names)
    with matplotlib.rc_context(STYLE):
        figure = new_figure(width_px=WIDTH_PX, height_px=height_px)
        box = (
            LEFT_PX / WIDTH_PX,
            BOTTOM_PX / height_px,
            0.98 - LEFT_PX / WIDTH_PX,
            1 - (TOP_PX + BOTTOM_PX) / height_px,
        )
        axes = figure.add_axes(box)
        quiet_axes(axes, grid="x")
        for place, name in enumerate(names):
            for bits in BITS:
                _draw(axes, runs=runs, name=name, bits=bits, place=place)
        axes.set_xscale("log")
        axes.set_xlim(LEAST / 1.15, 0.6)
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.set_yticks(range(len(names)), [_title(name) for name in names])
        axes.tick_params(axis="y", labelsize=8.5)
        axes.set_xticks([0.001, 0.003, 0.01, 0.03, 0.1, 0.3], ["0.001", "0.003", "0.01", "0.03", "0.1", "0.3"])
        axes.set_xticks([], minor=True)
        axes.set_xlabel(
            f"NDS lost to float; the left edge is {LEAST:g} or less; hollow: a single seed", color=INK, loc="right"
        )
        marks, labels = axes.get_legend_handles_labels()
        unique = dict(zip(labels, marks, strict=True))
        figure.legend(
            unique.values(), unique.keys(), loc="upper right", ncols=len(unique), frameon=False, labelcolor=INK
        )
    return picture_bytes(figure, form="svg")


def _title(name: str) -> str:
    method = METHODS[name]
    return f"no step: {method.title}" if method.group == BEFORE_TRAINING else method.title


def _draw(axes: Axes, *, runs: Runs, name: str, bits: str, place: int) -> None:
    """Dot and whisker of a method; of float trained on, which has no bits, in grey."""
    if (name, bits) not in runs:
        return
    (base,) = runs[FLOAT, BITS[0]]
    losses = [base["NDS"] - run["NDS"] for run in runs[name, bits]]
    colour, label = (COLOURS[bits], bits.upper()) if METHODS[name].compressed else (INK, "float")
    ends = [max(end, LEAST) for end in (min(losses), max(losses))]
    axes.plot(ends, [place, place], color=colour, linewidth=1.6, alpha=0.6)
    several = len(losses) > 1
    axes.plot(
        max(mean(losses), LEAST),
        place,
        "o",
        markersize=6,
        color=colour,
        markerfacecolor=colour if several else "none",
        label=label if several else None,
    )


if __name__ == "__main__":
    main()
