"""The Pareto front of bit plans: predicted loss over the share of what the float model costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes

from qdbev.reporting.charts.figure import BLUE, INK, ORANGE, STYLE, new_figure, picture_bytes, quiet_axes

Point = Mapping[str, Any]

_NOUNS = {"size": "nominal size", "bytes": "packed bytes", "bops": "bit operations", "latency": "measured latency"}
_SIZE_PX = {"width_px": 820, "height_px": 460}


def pareto_picture(
    points: Sequence[Point],
    *,
    chosen: Point,
    uniform: Sequence[Point] = (),
    resource: str = "size",
    form: str = "png",
) -> bytes:
    """Draws the front as a line, uniform bits as circles, the chosen plan as a star.

    Args:
        points: Entries ``share`` and ``loss``, of rising share.
        chosen: The same of the plan.
        uniform: The same with ``name``, such as W4A6.
        resource: What the share is of: size, bytes, bops or latency.
        form: "png" or "svg".

    Returns:
        The file's bytes.

    Raises:
        ValueError: there is no point, or the form is unknown.
    """
    if not points:
        raise ValueError("no front to draw: expected at least one point with `share` and `loss`")
    with matplotlib.rc_context(STYLE):
        figure = new_figure(**_SIZE_PX)
        axes = figure.add_axes((0.1, 0.13, 0.86, 0.82))
        quiet_axes(axes)
        axes.plot(*_places(points), color=BLUE, linewidth=1.6, marker=".", markersize=5, label="mixed bits")
        _draw_uniform(axes, uniform)
        axes.plot(*_places([chosen]), color=BLUE, marker="*", markersize=15, linestyle="none", label="chosen")
        if min(point["loss"] for point in [*points, chosen, *uniform]) > 0:
            axes.set_yscale("log")
        axes.legend(frameon=False, labelcolor=INK, loc="upper right")
        whose = "that of the widest bits" if resource == "latency" else "the float model's"
        axes.set_xlabel(f"{_NOUNS.get(resource, resource)} as a share of {whose}", color=INK)
        axes.set_ylabel("predicted loss", color=INK)
    return picture_bytes(figure, form=form)


def _places(points: Sequence[Point]) -> tuple[list[float], list[float]]:
    """Shares and losses."""
    return [point["share"] for point in points], [point["loss"] for point in points]


def _draw_uniform(axes: Axes, uniform: Sequence[Point]) -> None:
    """Circles with their names."""
    if uniform:
        same = "the same bits everywhere"
        axes.plot(*_places(uniform), color=ORANGE, linestyle="none", marker="o", markersize=6, label=same)
    for point in uniform:
        axes.annotate(
            str(point["name"]),
            xy=(point["share"], point["loss"]),
            xytext=(7, 4),
            textcoords="offset points",
            color=INK,
            fontsize=8.5,
        )
