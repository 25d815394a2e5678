"""Which boxes count: the devkit's filters by distance, points inside and bicycle racks, on columns.

Source: nuscenes-devkit, ``eval/common/loaders.py``, ``filter_eval_boxes``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from nuscenes.utils.data_classes import Box
from nuscenes.utils.geometry_utils import points_in_box

from qdbev.evaluation.boxes import Boxes, Floats, Ints
from qdbev.evaluation.rules import PARKED, Rules

RACK = "static_object.bicycle_rack"
_MARGIN = 1.001  # of a rack's half diagonal, beyond which no point is inside whatever the rounding


@dataclass(frozen=True, eq=False)
class Surroundings:
    """What decides at each of S samples which boxes count."""

    ego: Floats
    """(S, 2) place of the ego vehicle in metres."""
    racks: Mapping[int, Sequence[Box]]
    """Bicycle racks by the number of the sample."""


def counted(boxes: Boxes, *, at: Surroundings, rules: Rules) -> Boxes:
    """The boxes that count, in their order."""
    range_m = np.array(list(rules.class_range.values()), dtype=np.float64)
    may_be_parked = [label for label, name in enumerate(rules.class_names) if name in PARKED]
    away = boxes.translation[:, :2] - at.ego[boxes.sample]
    distance_m = np.sqrt((away**2).sum(axis=1))
    near = (distance_m < range_m[boxes.label]) & (boxes.points != 0)
    parked = np.flatnonzero(near & np.isin(boxes.label, may_be_parked) & np.isin(boxes.sample, list(at.racks)))
    near[_in_a_rack(boxes, rows=parked, racks=at.racks)] = False
    return boxes.where(near)


def _in_a_rack(boxes: Boxes, *, rows: Ints, racks: Mapping[int, Sequence[Box]]) -> list[int]:
    """Those of some rows, which come sample after sample, whose centre is inside a rack."""
    inside = []
    samples, first = np.unique(boxes.sample[rows], return_index=True)
    for sample, there in zip(samples.tolist(), np.split(rows, first[1:]), strict=False):
        for rack in racks[sample]:
            far = np.linalg.norm(boxes.translation[there] - rack.center, axis=1)
            candidates = there[far <= _MARGIN * np.linalg.norm(rack.wlh) / 2].tolist()
            inside += [row for row in candidates if points_in_box(rack, boxes.translation[row][:, None]).any()]
    return inside
