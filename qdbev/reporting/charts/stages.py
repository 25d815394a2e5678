"""Curves of single stages put one after the other, for the one picture over all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

Row = Mapping[str, Any]


class JoinedStages(NamedTuple):
    """What ``curve_picture`` draws, with steps counted over all stages.

    Attributes:
        points: entries ``step``, ``NDS``, and ``NDS_low`` and ``NDS_high`` where they are known.
        losses: entries ``step``, ``loss``.
        stages: entries ``name``, ``start``, ``end``.
    """

    points: list[dict[str, Any]]
    losses: list[dict[str, Any]]
    stages: list[dict[str, Any]]


def join_stages(curves: Sequence[tuple[str, Sequence[Row]]], *, score: str = "NDS", loss: str = "loss") -> JoinedStages:
    """Shifts each stage's steps behind those of the stages before it.

    Args:
        curves: Per stage its name and its rows, with ``step`` counted from the stage's own start, ascending. A row may
            hold a score (and the ends of its interval, ``_low`` and ``_high``), a loss, or both; a row at step 0 is the
            state before the stage's first step.
        score: Name of the score in the rows.
        loss: Name of the loss in the rows.

    Returns:
        Points, losses and stages. A stage is as long as its last step.

    >>> joined = join_stages([("backbone", [{"step": 4, "NDS": 0.4}]), ("neck", [{"step": 0, "NDS": 0.3}])])
    >>> joined.points
    [{'step': 4, 'NDS': 0.4}, {'step': 4, 'NDS': 0.3}]
    >>> joined.stages
    [{'name': 'backbone', 'start': 0, 'end': 4}, {'name': 'neck', 'start': 4, 'end': 4}]
    """
    joined = JoinedStages([], [], [])
    start = 0
    for name, rows in curves:
        joined.points.extend(_point(row, step=start + row["step"], score=score) for row in rows if score in row)
        joined.losses.extend({"step": start + row["step"], "loss": row[loss]} for row in rows if loss in row)
        end = start + max((row["step"] for row in rows), default=0)
        joined.stages.append({"name": name, "start": start, "end": end})
        start = end
    return joined


def _point(row: Row, *, step: int, score: str) -> dict[str, Any]:
    """A score at its step over all stages, with its interval where there is one."""
    ends = {f"NDS{end}": row[f"{score}{end}"] for end in ("_low", "_high") if f"{score}{end}" in row}
    return {"step": step, "NDS": row[score], **ends}
