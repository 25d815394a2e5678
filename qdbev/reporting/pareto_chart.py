"""The Pareto front of bit plans: predicted loss over the share of the float model's size or bit operations."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes

from qdbev.reporting.figure import BLUE, INK, ORANGE, STYLE, new_figure, picture_bytes, quiet_axes

Point = Mapping[str, Any]

_NOUNS = {"size": "nominal size", "bops": "bit operations"}


def pareto_picture(
    points: Sequence[Point],
    *,
    chosen: Point,
    uniform: Sequence[Point] = (),
    resource: str = "size",
    width_px: int = 820,
    height_px: int = 460,
    form: str = "png",
) -> bytes:
    """Draws the front as a line, uniform bits as circles, the chosen plan as a star.

    Args:
        points: entries `share` and `loss`, of rising share.
        chosen: the same of the plan.
        uniform: the same with `name`, such as W4A6.
        resource: what the share is of: "size" or "bops".
        width_px: width.
        height_px: height.
        form: "png" or "svg".

    Returns:
        The file's bytes.

    Raises:
        ValueError: there is no point, or the form is unknown.
    """
    if not points:
        raise ValueError("no front to draw: expected at least one point with `share` and `loss`")
    with matplotlib.rc_context(STYLE):
        figure = new_figure(width_px=width_px, height_px=height_px)
        axes = figure.add_axes((0.1, 0.13, 0.86, 0.82))
        quiet_axes(axes)
        _draw(axes, points=points, chosen=chosen, uniform=uniform)
        axes.set_xlabel(f"{_NOUNS.get(resource, resource)} as a share of the float model's", color=INK)
        axes.set_ylabel("predicted loss", color=INK)
    return picture_bytes(figure, form=form)


def _draw(axes: Axes, *, points: Sequence[Point], chosen: Point, uniform: Sequence[Point]) -> None:
    shares, losses = [point["share"] for point in points], [point["loss"] for point in points]
    axes.plot(shares, losses, color=BLUE, linewidth=1.6, marker=".", markersize=5, label="mixed bits")
    same = [point["share"] for point in uniform], [point["loss"] for point in uniform]
    if uniform:
        axes.plot(*same, color=ORANGE, linestyle="none", marker="o", markersize=6, label="the same bits everywhere")
    axes.plot(chosen["share"], chosen["loss"], color=BLUE, marker="*", markersize=15, linestyle="none", label="chosen")
    for point in uniform:
        axes.annotate(
            str(point["name"]),
            xy=(point["share"], point["loss"]),
            xytext=(7, 4),
            textcoords="offset points",
            color=INK,
            fontsize=8.5,
        )
    if min([*losses, chosen["loss"], *same[1]]) > 0:
        axes.set_yscale("log")
    axes.legend(frameon=False, labelcolor=INK, loc="upper right")
