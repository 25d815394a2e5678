"""Which boxes count: the devkit's filters by distance, points inside and bicycle racks, on columns.

Source: nuscenes-devkit, ``eval/common/loaders.py``, ``filter_eval_boxes``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from nuscenes.utils.data_classes import Box
from nuscenes.utils.geometry_utils import points_in_box

from qdbev.evaluation.boxes import CONFIG, NAMES, Boxes, Floats, Ints

RACK = "static_object.bicycle_rack"
_RANGE_M = np.array([CONFIG.class_range[name] for name in NAMES], dtype=np.float64)
_PARKED = [NAMES.index(name) for name in ("bicycle", "motorcycle")]
_MARGIN = 1.001  # of a rack's half diagonal, beyond which no point is inside whatever the rounding


@dataclass(frozen=True, eq=False)
class Surroundings:
    """What decides at each of S samples which boxes count."""

    ego: Floats
    """(S, 2) place of the ego vehicle in metres."""
    racks: Mapping[int, Sequence[Box]]
    """Bicycle racks by the number of the sample."""


def counted(boxes: Boxes, *, at: Surroundings) -> Boxes:
    """The boxes that count, in their order."""
    away = boxes.translation[:, :2] - at.ego[boxes.sample]
    distance_m = np.sqrt((away**2).sum(axis=1))
    near = (distance_m < _RANGE_M[boxes.label]) & (boxes.points != 0)
    parked = np.flatnonzero(near & np.isin(boxes.label, _PARKED) & np.isin(boxes.sample, list(at.racks)))
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
