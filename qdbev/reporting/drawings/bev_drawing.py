"""Boxes seen from above: the ego vehicle in the middle, range rings, a tick at each box's front."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.patches import Circle, Polygon

from qdbev.reporting.charts.figure import FAINT, INK
from qdbev.reporting.drawings.projection import ground_corners

GROUND = "#f4f6f8"
RING_STEP_M = 10.0
EGO_OUTLINE_M = np.array([(-0.95, -2.0), (-0.95, 1.4), (0.0, 2.4), (0.95, 1.4), (0.95, -2.0)])  # x right, y forward
TICK_M = 1.2


def draw_bev_ground(axes: Axes, *, range_m: float) -> None:
    """Prepares an axes: ground, rings every 10 m with their distance, the ego vehicle pointing up.

    Args:
        axes: An empty axes; it is square afterwards, and shows -range_m to range_m both ways.
        range_m: Half the side of what is shown.
    """
    axes.set_xlim(-range_m, range_m)
    axes.set_ylim(-range_m, range_m)
    axes.set_aspect("equal")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_facecolor(GROUND)
    for spine in axes.spines.values():
        spine.set_visible(False)
    for radius in np.arange(RING_STEP_M, range_m, RING_STEP_M):
        axes.add_patch(Circle((0, 0), radius, fill=False, edgecolor=FAINT, linewidth=0.7, alpha=0.45))
        place = radius / np.sqrt(2)
        axes.text(place, -place, f"{radius:.0f} m", color=FAINT, fontsize=7.5, ha="center", va="center")
    axes.add_patch(Polygon(EGO_OUTLINE_M, closed=True, facecolor=INK, edgecolor="none", zorder=5))


def draw_bev_boxes(
    axes: Axes, *, boxes: np.ndarray, colours: Sequence[str], filled: bool, opacity: float = 1.0
) -> None:
    """Draws boxes from above.

    Args:
        axes: Prepared by ``draw_bev_ground``.
        boxes: (n, 9) LiDAR frame (see projection.py).
        colours: n colours.
        filled: Solid boxes (the ground truth below a prediction) or outlines with a tick at the front.
        opacity: 0 to 1.
    """
    if not len(boxes):
        return
    corners = ground_corners(boxes)
    if filled:
        axes.add_collection(
            PolyCollection(list(corners), facecolors=colours, edgecolors="none", alpha=opacity, zorder=2)
        )
        return
    axes.add_collection(
        PolyCollection(list(corners), facecolors="none", edgecolors=colours, linewidths=1.4, alpha=opacity, zorder=3)
    )
    axes.add_collection(LineCollection(heading_ticks(boxes), colors=colours, linewidths=1.4, alpha=opacity, zorder=3))


def heading_ticks(boxes: np.ndarray) -> list[np.ndarray]:
    """A short line from the middle of each box's front straight ahead.

    Args:
        boxes: (n, 7 or more).

    Returns:
        n arrays (2, 2): start and end, x and y in metres.

    >>> heading_ticks(np.array([[10.0, 0.0, -1.0, 4.0, 2.0, 1.5, 0.0]]))[0].tolist()
    [[12.0, 0.0], [13.2, 0.0]]
    """
    corners = ground_corners(boxes)
    front = (corners[:, 0] + corners[:, 1]) / 2
    ahead = np.stack([np.cos(boxes[:, 6]), np.sin(boxes[:, 6])], axis=1)
    return list(np.stack([front, front + TICK_M * ahead], axis=1))
