"""Boxes of a detection task as columns, sample after sample, checked as the devkit's ``DetectionBox`` does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import chain
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qdbev.evaluation.rules import Rules

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_WIDTHS = (("translation", 3), ("size", 3), ("rotation", 4), ("velocity", 2))
_LISTS = [name for name, _ in _WIDTHS]
_FIELDS = itemgetter("detection_name", "attribute_name", "detection_score", *_LISTS)
_USUAL = {"sample_token", "detection_name", "attribute_name", "detection_score", *_LISTS}
UNSCORED, UNCOUNTED = -1.0, -1  # what the devkit fills in where a box says no score, no points
_OPTIONAL = {"detection_score": UNSCORED, "num_pts": UNCOUNTED}


@dataclass(frozen=True, eq=False)
class Boxes:
    """N boxes in the global frame, in the devkit's order: sample after sample."""

    sample: Ints
    """(N,) number of the sample."""
    label: Ints
    """(N,) index into the names of the rules' classes."""
    attribute: Ints
    """(N,) index into the rules' attributes, from 1 on; 0 is none."""
    points: Ints
    """(N,) LiDAR and radar points inside; -1 where nobody counted, as in predictions."""
    translation: Floats
    """(N, 3) centre in metres."""
    size: Floats
    """(N, 3) width, length, height in metres."""
    rotation: Floats
    """(N, 4) quaternion w, x, y, z."""
    velocity: Floats
    """(N, 2) in m/s; NaN where unknown."""
    score: Floats
    """(N,) confidence; -1 in ground truth."""

    def __len__(self) -> int:
        return len(self.sample)

    def where(self, chosen: NDArray[np.bool_] | Ints) -> Boxes:
        """The chosen rows, in their order."""
        return Boxes(*(getattr(self, field.name)[chosen] for field in fields(self)))


def boxes_of_entries(entries: Sequence[Mapping[str, Any]], *, sample: Ints, rules: Rules) -> Boxes:
    """Result entries of a submission as columns.

    Args:
        entries: N of them.
        sample: (N,) number of the sample of each.
        rules: Which classes and attributes there are.

    Raises:
        LookupError: A field is missing, or the rules know no such class or attribute.
        TypeError: A field is no list of as many numbers as it takes, or one is NaN.
    """
    said = (
        entries if all(entry.keys() == _USUAL for entry in entries) else [{**_OPTIONAL, **entry} for entry in entries]
    )
    names, attributes, scores, *lists = list(zip(*map(_FIELDS, said), strict=True)) or [()] * 7
    translation, size, rotation, velocity = (
        _column(rows, name=name, width=width) for rows, (name, width) in zip(lists, _WIDTHS, strict=True)
    )
    score = np.fromiter(map(float, scores), dtype=np.float64, count=len(entries))
    if any(np.isnan(column).any() for column in (translation, size, rotation, score)):
        raise TypeError("a translation, size, rotation or detection_score is NaN")
    of_class, of_attribute = _numbers(rules.class_names), _numbers(("", *rules.attributes))
    return Boxes(
        sample=sample,
        label=np.array([of_class[name] for name in names], dtype=np.int64),
        attribute=np.array([of_attribute[name] for name in attributes], dtype=np.int64),
        points=_points(said),
        translation=translation,
        size=size,
        rotation=rotation,
        velocity=velocity,
        score=score,
    )


def _numbers(names: Sequence[str]) -> dict[str, int]:
    return {name: number for number, name in enumerate(names)}


def _points(entries: Sequence[Mapping[str, Any]]) -> Ints:
    if entries and "num_pts" in entries[0]:  # filled in
        return np.array([int(entry["num_pts"]) for entry in entries], dtype=np.int64)
    return np.full(len(entries), UNCOUNTED)


def _column(rows: Sequence[Sequence[float]], *, name: str, width: int) -> Floats:
    if set(map(len, rows)) - {width}:
        raise TypeError(f"a {name} takes {width} numbers")
    return np.fromiter(chain.from_iterable(rows), dtype=np.float64, count=width * len(rows)).reshape(-1, width)


def joined(parts: Sequence[Boxes]) -> Boxes:
    """The boxes of all parts, sample after sample, in the order of the parts within each."""
    columns = (np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Boxes))
    boxes = Boxes(*columns)
    in_order = bool((np.diff(boxes.sample) >= 0).all())
    return boxes if in_order else boxes.where(np.argsort(boxes.sample, kind="stable"))
