"""Annotated boxes: finite, of a size, with one attribute and a category that the devkit knows, and some that count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from nuscenes import NuScenes
from nuscenes.utils.color_map import get_colormap

from qdbev.data.nuscenes.checks.sensors import placed
from qdbev.data.nuscenes.findings import Finding, quoted, warning
from qdbev.data.nuscenes.layout import NUSCENES, Layout

Row = dict[str, Any]
_LARGEST_M, _FASTEST_MPS = 100.0, 100.0
_FEWEST = 10  # vehicles, from which the order of their sides is told
_LONG = frozenset(("car", "truck", "bus", "trailer"))  # longer than wide


def box_findings(tables: NuScenes, *, samples: Sequence[Row], layout: Layout = NUSCENES) -> Iterator[Finding]:
    """What is wrong with the annotations of some samples.

    Args:
        tables: Of sound structure.
        samples: Rows of ``sample``.
        layout: Which categories are which class.
    """
    rows = [tables.get("sample_annotation", token) for sample in samples for token in sample["anns"]]
    yield from placed("sample_annotation", rows, upright=True)
    yield from _sizes(rows, layout=layout)
    yield from _repeated(rows)
    yield from _attributes(tables, rows=rows, known=layout.attributes)
    yield from _links(tables, rows=rows)
    yield from _categories(rows) if layout.categories == NUSCENES.categories else _classless(rows, layout=layout)
    of_class = [row for row in rows if row["category_name"] in layout.class_of]
    yield from _unknown_everywhere(of_class)
    if tables.sample_annotation or not tables.version.endswith("test"):
        yield from _counting(of_class, rows=len(rows), samples=len(samples))


def _sizes(rows: Sequence[Row], *, layout: Layout) -> Iterator[Finding]:
    if not rows:
        return
    sizes = np.array([row["size"] for row in rows], dtype=np.float64)
    for at in np.flatnonzero(~((sizes > 0) & np.isfinite(sizes)).all(axis=1)):
        token = rows[at]["token"]
        yield Finding("size", "sample_annotation", token, f"size of sample_annotation {token} is {rows[at]['size']}")
    for at in np.flatnonzero((sizes > _LARGEST_M).any(axis=1) & np.isfinite(sizes).all(axis=1)):
        token, size = rows[at]["token"], rows[at]["size"]
        sentence = f"size of sample_annotation {token} is {size}, which are metres: width, length, height"
        yield Finding("size", "sample_annotation", token, sentence)
    long = np.array([layout.class_of.get(row["category_name"]) in _LONG for row in rows])
    if long.sum() >= _FEWEST and np.median(sizes[long, 0]) > np.median(sizes[long, 1]):
        sentence = f"most of {long.sum()} vehicles are wider than long; sizes are width, length, height"
        yield warning("size", "sample_annotation", rows[int(np.argmax(long))]["token"], sentence)


def _repeated(rows: Sequence[Row]) -> Iterator[Finding]:
    """Boxes that stand twice, and objects with two boxes in one sample: all count as objects to be found."""
    boxes = [(row["sample_token"], row["category_name"], *row["translation"], *row["size"]) for row in rows]
    objects = [(row["sample_token"], row["instance_token"]) for row in rows]
    for what, keys in (("boxes stand twice in their sample", boxes), ("objects have two boxes in a sample", objects)):
        twice = [key for key, count in Counter(keys).items() if count > 1]
        if twice:
            token = rows[keys.index(twice[0])]["token"]
            sentence = f"{len(twice)} {what}, first sample_annotation {token}; each counts as one to be found"
            yield warning("box", "sample_annotation", token, sentence)


def _unknown_everywhere(of_class: Sequence[Row]) -> Iterator[Finding]:
    """No attribute, or no neighbour in time, in all boxes: the devkit scores what nobody knows as an error of 1."""
    if of_class and not any(row["attribute_tokens"] for row in of_class):
        sentence = f"none of {len(of_class)} boxes has an attribute: mAAE is 1, which takes up to 0.1 off NDS"
        yield warning("attribute", "sample_annotation", of_class[0]["token"], sentence)
    if of_class and not any(row["prev"] or row["next"] for row in of_class):
        sentence = f"none of {len(of_class)} boxes has a prev or next, so no velocity: mAVE is 1, up to 0.1 off NDS"
        yield warning("link", "sample_annotation", of_class[0]["token"], sentence)


def _attributes(tables: NuScenes, *, rows: Sequence[Row], known: Sequence[str]) -> Iterator[Finding]:
    names = {row["token"]: row["name"] for row in tables.attribute}
    for row in rows:
        token, tokens = row["token"], row["attribute_tokens"]
        if len(tokens) > 1:
            sentence = f"sample_annotation {token} has {len(tokens)} attributes; nuScenes' detection task allows one"
            yield Finding("attribute", "sample_annotation", token, sentence)
        elif tokens and names[tokens[0]] not in known:
            name, there_are = quoted(names[tokens[0]]), ", ".join(known)
            sentence = f"sample_annotation {token} has the attribute {name}; the devkit knows {there_are}"
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
            elif sign > 0 and (speed := _way(row, other) / (passed * 1e-6)) > _FASTEST_MPS:
                sentence = f"the object of sample_annotation {row['token']} makes {speed:.0f} m/s to its next box"
                yield warning("link", "sample_annotation", row["token"], sentence)


def _way(row: Row, other: Row) -> float:
    return float(np.linalg.norm(np.subtract(other["translation"], row["translation"], dtype=np.float64)))


def _time(tables: NuScenes, row: Row) -> float:
    return float(tables.get("sample", row["sample_token"])["timestamp"])


@lru_cache(maxsize=1)
def _known_categories() -> frozenset[str]:
    return frozenset(get_colormap())


def _categories(rows: Sequence[Row]) -> Iterator[Finding]:
    """Names that are not nuScenes': their boxes count nowhere."""
    counts = Counter(row["category_name"] for row in rows)
    for name, count in sorted(counts.items()):
        if name in NUSCENES.classes:
            sentence = f"category {name} is the name of a class (boxes: {count}); nuScenes calls it {_spelled(name)}"
            yield Finding("category", "category", name, sentence)
        elif (meant := name.strip().casefold()) in _known_categories() and meant != name:
            sentence = f"category {quoted(name)} ({count} boxes) counts nowhere; nuScenes writes {meant}"
            yield Finding("category", "category", name, sentence)
        elif name not in _known_categories():
            sentence = f"category {quoted(name)} is not nuScenes': its boxes ({count}) count nowhere"
            yield warning("category", "category", name, sentence)


def _spelled(detection_name: str) -> str:
    return " or ".join(name for name in sorted(_known_categories()) if NUSCENES.class_of.get(name) == detection_name)


def _classless(rows: Sequence[Row], *, layout: Layout) -> Iterator[Finding]:
    """Categories of a rig of one's own that no class takes, and classes that no annotation is of."""
    counts = Counter(row["category_name"] for row in rows)
    for name, count in sorted(counts.items()):
        if name not in layout.class_of:
            sentence = f"category {quoted(name)} is of no class in data.rig: its boxes ({count}) count nowhere"
            yield warning("category", "category", name, sentence)


def _counting(of_class: Sequence[Row], *, rows: int, samples: int) -> Iterator[Finding]:
    """Whether any box counts: of a class of the detection task, and with a point in it."""
    if any(row["num_lidar_pts"] + row["num_radar_pts"] for row in of_class):
        return
    if of_class:
        why = (
            f"all {len(of_class)} have 0 LiDAR and radar points (num_lidar_pts, num_radar_pts), and such boxes count "
            "neither in training nor in scores; count the points in each box, or write 1 where an annotator saw it"
        )
    else:
        why = f"of {rows} annotations in {samples} samples none is of a class of the detection task"
    yield Finding("no-box", "sample_annotation", "", f"no box counts: {why}")
