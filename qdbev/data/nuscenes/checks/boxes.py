"""Annotated boxes: finite, of a size, with one attribute and a category that the devkit knows, and some that count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from nuscenes import NuScenes
from nuscenes.eval.detection.constants import ATTRIBUTE_NAMES, DETECTION_NAMES
from nuscenes.eval.detection.utils import category_to_detection_name
from nuscenes.utils.color_map import get_colormap

from qdbev.data.nuscenes.checks.sensors import placed
from qdbev.data.nuscenes.findings import Finding, quoted, warning

Row = dict[str, Any]


def box_findings(tables: NuScenes, *, samples: Sequence[Row]) -> Iterator[Finding]:
    """What is wrong with the annotations of some samples.

    Args:
        tables: Of sound structure.
        samples: Rows of ``sample``.
    """
    rows = [tables.get("sample_annotation", token) for sample in samples for token in sample["anns"]]
    yield from placed("sample_annotation", rows)
    yield from _sizes(rows)
    yield from _attributes(tables, rows=rows)
    yield from _links(tables, rows=rows)
    yield from _categories(rows)
    if tables.sample_annotation or not tables.version.endswith("test"):
        yield from _counting(rows, samples=len(samples))


def _sizes(rows: Sequence[Row]) -> Iterator[Finding]:
    if not rows:
        return
    sizes = np.array([row["size"] for row in rows], dtype=np.float64)
    for at in np.flatnonzero(~((sizes > 0) & np.isfinite(sizes)).all(axis=1)):
        token = rows[at]["token"]
        yield Finding("size", "sample_annotation", token, f"size of sample_annotation {token} is {rows[at]['size']}")


def _attributes(tables: NuScenes, *, rows: Sequence[Row]) -> Iterator[Finding]:
    names = {row["token"]: row["name"] for row in tables.attribute}
    for row in rows:
        token, tokens = row["token"], row["attribute_tokens"]
        if len(tokens) > 1:
            sentence = f"sample_annotation {token} has {len(tokens)} attributes; nuScenes' detection task allows one"
            yield Finding("attribute", "sample_annotation", token, sentence)
        elif tokens and names[tokens[0]] not in ATTRIBUTE_NAMES:
            known = ", ".join(ATTRIBUTE_NAMES)
            sentence = (
                f"sample_annotation {token} has the attribute {quoted(names[tokens[0]])}; the devkit knows {known}"
            )
            yield Finding("attribute", "sample_annotation", token, sentence)


def _links(tables: NuScenes, *, rows: Sequence[Row]) -> Iterator[Finding]:
    """Velocities come from the box before and the box after: of the same object, and of another time."""
    for row in rows:
        for side, sign in (("prev", -1), ("next", 1)):
            if not row[side]:
                continue
            other = tables.get("sample_annotation", row[side])
            passed = _time(tables, other) - _time(tables, row)
            if other["instance_token"] != row["instance_token"] or passed * sign <= 0:
                why = (
                    "of another object"
                    if other["instance_token"] != row["instance_token"]
                    else "not on that side in time"
                )
                sentence = f"{side} of sample_annotation {row['token']} is {row[side]}, which is {why}"
                yield Finding("link", "sample_annotation", row["token"], sentence)


def _time(tables: NuScenes, row: Row) -> float:
    return float(tables.get("sample", row["sample_token"])["timestamp"])


@lru_cache(maxsize=1)
def _known_categories() -> frozenset[str]:
    return frozenset(get_colormap())


def _categories(rows: Sequence[Row]) -> Iterator[Finding]:
    """Names that are not nuScenes': their boxes count nowhere."""
    counts = Counter(row["category_name"] for row in rows)
    for name, count in sorted(counts.items()):
        if name in DETECTION_NAMES:
            sentence = f"category {name} is the name of a class ({count} boxes); nuScenes calls it {_spelled(name)}"
            yield Finding("category", "category", name, sentence)
        elif name not in _known_categories():
            sentence = f"category {quoted(name)} is not nuScenes': its {count} boxes count nowhere"
            yield warning("category", "category", name, sentence)


def _spelled(detection_name: str) -> str:
    return " or ".join(
        name for name in sorted(_known_categories()) if category_to_detection_name(name) == detection_name
    )


def _counting(rows: Sequence[Row], *, samples: int) -> Iterator[Finding]:
    """Whether any box counts: of a class of the detection task, and with a point in it."""
    of_class = [row for row in rows if category_to_detection_name(row["category_name"]) is not None]
    if any(row["num_lidar_pts"] + row["num_radar_pts"] for row in of_class):
        return
    if of_class:
        why = (
            f"all {len(of_class)} have 0 LiDAR and radar points (num_lidar_pts, num_radar_pts), and such boxes count "
            "neither in training nor in scores; count the points in each box, or write 1 where an annotator saw it"
        )
    else:
        why = f"of {len(rows)} annotations in {samples} samples none is of a class of the detection task"
    yield Finding("no-box", "sample_annotation", "", f"no box counts: {why}")
