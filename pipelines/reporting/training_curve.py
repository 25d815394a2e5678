"""The picture of NDS and loss over all training stages of a chain."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.lineage.chain import Link
from pipelines.lineage.kinds import CURVE, FLOAT
from pipelines.reporting.runs import Intervals, nds_bounds
from qdbev.reporting.charts.stages import join_stages


def curve_png(links: Sequence[Link], *, intervals: Intervals) -> bytes:
    """The picture of NDS and loss over all training stages.

    Args:
        links: The chain, the float detector first.
        intervals: Of NDS minus float's, by name, where there are some.
    """
    return _curve(links, intervals=intervals, form="png")


def curve_svg(links: Sequence[Link], *, intervals: Intervals) -> bytes:
    """The same as a drawing for the page; arguments as in ``curve_png``."""
    return _curve(links, intervals=intervals, form="svg")


def _curve(links: Sequence[Link], *, intervals: Intervals, form: str) -> bytes:
    from qdbev.reporting.charts.curve import curve_picture

    stages = [link for link in links if CURVE in link.model.manifest.files and link.model.manifest.kind != FLOAT]
    joined = join_stages([(_short(link), _curve_rows(link, interval=intervals.get(link.name))) for link in stages])
    return curve_picture(
        joined.points, stages=joined.stages, losses=joined.losses, float_nds=links[0].scores.get("NDS"), form=form
    )


def _curve_rows(link: Link, *, interval: Mapping[str, float] | None) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(link.model.file(CURVE).read_text(encoding="utf-8"))
    points = [{"step": row["step"], "loss": row["loss"]} for row in rows if "loss" in row]
    if points and link.scores:
        points.append({"step": points[-1]["step"], "NDS": link.scores["NDS"], **nds_bounds(interval)})
    return points


def _short(link: Link) -> str:
    parts = link.model.manifest.data.get("parts")
    return str(parts[-1]) if isinstance(parts, list) else link.name
