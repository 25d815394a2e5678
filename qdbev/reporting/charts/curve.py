"""The training curve: NDS over all stages as one line, stages as bands, and the loss below (the paper's figure 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes

from qdbev.reporting.charts.figure import BLUE, DPI, FAINT, INK, ORANGE, STYLE, new_figure, picture_bytes, quiet_axes

Row = Mapping[str, Any]

LABEL_PX = 16
LEFT_PX, RIGHT_PX = 84, 100
LETTER_PX = 6.6


def curve_picture(
    points: Sequence[Row],
    *,
    stages: Sequence[Row],
    float_nds: float | None = None,
    losses: Sequence[Row] = (),
    width_px: int = 1000,
    height_px: int = 460,
    form: str = "png",
) -> bytes:
    """Draws the training curve.

    Args:
        points: Evaluations, entries ``step`` (counted over all stages) and ``NDS``; optional ``NDS_low`` and
            ``NDS_high``, ends of the interval of NDS minus ``float_nds``, drawn as a band. Two points may share a step:
            the end of a stage and the start of the next one, which has just quantized one part more.
        stages: Bands, entries ``name``, ``start``, ``end`` (steps).
        float_nds: NDS of the float model, a dashed line; None draws none.
        losses: Training loss, entries ``step``, ``loss``; without them the picture has no lower panel.
        width_px: Width.
        height_px: Height.
        form: "png" or "svg".

    Returns:
        The file's bytes.

    Raises:
        ValueError: there is no point, or the form is unknown.
    """
    if not points:
        raise ValueError("no evaluation to draw: expected at least one point with `step` and `NDS`")
    with matplotlib.rc_context(STYLE):
        figure = new_figure(width_px=width_px, height_px=height_px)
        levels = label_levels(stages, span=_span(points, stages=stages), width_px=width_px - LEFT_PX - RIGHT_PX)
        ratios = [3.0, 1.25] if losses else [1.0]
        panels = list(figure.subplots(len(ratios), 1, sharex=True, squeeze=False, height_ratios=ratios)[:, 0])
        figure.subplots_adjust(
            left=LEFT_PX / width_px,
            right=1 - RIGHT_PX / width_px,
            top=1 - (14 + LABEL_PX * (max(levels, default=0) + 1)) / height_px,
            bottom=44 / height_px,
            hspace=0.09,
        )
        _draw_stages(panels, stages=stages, levels=levels)
        _draw_scores(panels[0], points=points, float_nds=float_nds)
        if losses:
            _draw_losses(panels[1], losses=losses)
        panels[-1].set_xlabel("optimiser steps, all stages", color=INK)
        panels[0].set_xlim(*_span(points, stages=stages))
    return picture_bytes(figure, form=form)


def running_mean(values: Sequence[float], *, window: int) -> np.ndarray:
    """Mean over the last ``window`` values; fewer at the start.

    >>> running_mean([4.0, 2.0, 0.0, 2.0], window=2).tolist()
    [4.0, 3.0, 1.0, 1.0]
    """
    sums = np.cumsum(np.concatenate([[0.0], np.asarray(values, dtype=np.float64)]))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)


def label_levels(stages: Sequence[Row], *, span: tuple[float, float], width_px: float) -> list[int]:
    """In which line above the panel each stage's name stands, so that no two overlap; 0 is next to the panel.

    Args:
        stages: Entries ``name``, ``start``, ``end``.
        span: First and last step of the axis.
        width_px: Width of the axis.

    >>> stages = [{"name": name, "start": 50 * at, "end": 50 * at + 50} for at, name in enumerate(("backbone", "neck"))]
    >>> label_levels(stages, span=(0, 100), width_px=400), label_levels(stages, span=(0, 100), width_px=60)
    ([0, 0], [0, 1])
    """
    pixels = width_px / (span[1] - span[0])
    ends: list[float] = []
    levels = []
    for stage in stages:
        middle, half = (stage["start"] + stage["end"]) / 2 * pixels, LETTER_PX * (len(stage["name"]) + 1) / 2
        level = next((level for level, end in enumerate(ends) if end <= middle - half), len(ends))
        ends[level : level + 1] = [middle + half]
        levels.append(level)
    return levels


def _draw_stages(panels: Sequence[Axes], *, stages: Sequence[Row], levels: Sequence[int]) -> None:
    """Shades every other stage and writes the names above the upper panel."""
    for index, (stage, level) in enumerate(zip(stages, levels, strict=True)):
        for panel in panels:
            if index % 2 == 0:
                panel.axvspan(stage["start"], stage["end"], color=FAINT, alpha=0.13, linewidth=0)
        middle = (stage["start"] + stage["end"]) / 2
        panels[0].annotate(
            stage["name"],
            xy=(middle, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(0, (7 + LABEL_PX * level) * 72 / DPI),
            textcoords="offset points",
            ha="center",
            color=INK,
            arrowprops={"arrowstyle": "-", "color": FAINT, "linewidth": 0.6, "shrinkA": 1} if level else None,
        )


def _draw_scores(axes: Axes, *, points: Sequence[Row], float_nds: float | None) -> None:
    """The NDS line with a point at each evaluation; the last value and the float value stand at the right edge."""
    quiet_axes(axes)
    steps, scores = [row["step"] for row in points], [row["NDS"] for row in points]
    axes.plot(steps, scores, color=BLUE, linewidth=1.8, marker="o", markersize=4.5, markeredgewidth=0, clip_on=False)
    heights = [*scores, *_draw_band(axes, points=points, float_nds=float_nds)]
    labels = [(scores[-1], f"{scores[-1]:.3f}", BLUE, "bold")]
    if float_nds is not None:
        axes.axhline(float_nds, color=ORANGE, linewidth=1.4, linestyle=(0, (5, 3)))
        labels.append((float_nds, f"float {float_nds:.3f}", ORANGE, "normal"))
    heights += [label[0] for label in labels]
    low, high = min(heights), max(heights)
    margin = max(0.08 * (high - low), 0.004)
    axes.set_ylim(low - margin, high + margin)
    axes.set_ylabel("NDS", color=INK)
    _label_right(axes, labels, span=high - low + 2 * margin)


def _draw_band(axes: Axes, *, points: Sequence[Row], float_nds: float | None) -> list[float]:
    """Shades the interval of the scores that have one; the heights that it reaches."""
    banded = [row for row in points if row.get("NDS_low") is not None]
    if float_nds is None or not banded:
        return []
    low, high = ([float_nds + row[end] for row in banded] for end in ("NDS_low", "NDS_high"))
    axes.fill_between([row["step"] for row in banded], low, high, color=BLUE, alpha=0.15, linewidth=0)
    return [*low, *high]


def _label_right(axes: Axes, labels: Sequence[tuple[float, str, str, str]], *, span: float) -> None:
    """Writes height, text, colour and weight of each label at the right edge."""
    for height, (_, text, colour, weight) in zip(_spread(labels, span=span), labels, strict=True):
        axes.annotate(
            text,
            xy=(1.0, height),
            xycoords=("axes fraction", "data"),
            xytext=(9, 0),
            textcoords="offset points",
            va="center",
            color=colour,
            fontweight=weight,
            annotation_clip=False,
        )


def _spread(labels: Sequence[tuple[float, str, str, str]], *, span: float) -> list[float]:
    """Heights of the labels at the right edge: two that would overlap move apart to 7 % of the axis."""
    heights = [label[0] for label in labels]
    gap = 0.07 * span
    if len(heights) == 2 and abs(heights[0] - heights[1]) < gap:
        middle, sign = sum(heights) / 2, 1.0 if heights[0] >= heights[1] else -1.0
        return [middle + sign * gap / 2, middle - sign * gap / 2]
    return heights


def _draw_losses(axes: Axes, *, losses: Sequence[Row]) -> None:
    """The loss of each step, faint, and its running mean over a fiftieth of the run."""
    quiet_axes(axes)
    steps, values = [row["step"] for row in losses], [float(row["loss"]) for row in losses]
    axes.plot(steps, values, color=FAINT, linewidth=0.7, alpha=0.55)
    axes.plot(steps, running_mean(values, window=max(1, len(values) // 50)), color=INK, linewidth=1.5)
    axes.set_ylabel("loss", color=INK)
    axes.margins(y=0.1)


def _span(points: Sequence[Row], *, stages: Sequence[Row]) -> tuple[float, float]:
    """First and last step of the axis, with a little air."""
    steps = [row["step"] for row in points] + [stage[side] for stage in stages for side in ("start", "end")]
    width = max(steps) - min(steps) or 1
    return min(steps) - 0.008 * width, max(steps) + 0.008 * width
