"""Structure of the thirteen tables: rows, fields and their types, tokens that are unique, references that exist.

Columns are looked at whole; a row is looked at alone only where its column is not as it should be. Whether numbers make
sense (finite, of length one, positive) the other checks ask, of the scenes in use.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from qdbev.data.nuscenes.findings import Finding, quoted

Row = dict[str, Any]
Tables = dict[str, list[Row]]
_MISSING = object()
_UNNAMEABLE = re.compile(r"[\\\x00-\x1f\x7f\ud800-\udfff]")
_SHOWN_ROWS = 20  # findings of one field


def structure_findings(tables: Tables, *, root: Path, maps: bool = True) -> list[Finding]:
    """All that is wrong with the structure; references are looked at only where the fields are right.

    Args:
        tables: Rows by table.
        root: Folder of the data set.
        maps: Whether it has maps, which the devkit asks for.
    """
    found = [finding for name, rows in tables.items() for finding in _table(name, rows)]
    if found:
        return found
    return [*_repeated(tables), *_references(tables), *(_maps(tables, root=root) if maps else ())]


def _table(name: str, rows: Any) -> Iterator[Finding]:
    if not isinstance(rows, list):
        yield Finding("table", name, "", f"{name}.json holds a {type(rows).__name__}, not a list of rows")
        return
    strange = [row for row in rows if not isinstance(row, dict)]
    if strange:
        yield Finding("table", name, "", f"{name}.json: {len(strange)} of {len(rows)} rows are no objects")
        return
    for field, (expected, accepts) in {"token": _TOKEN, **FIELDS[name]}.items():
        yield from _field(name, rows, field=field, expected=expected, accepts=accepts)


def _field(name: str, rows: list[Row], *, field: str, expected: str, accepts: Accepts) -> Iterator[Finding]:
    column = [row.get(field, _MISSING) for row in rows]
    if not column or accepts(column):
        return
    wrong = [place for place, value in enumerate(column) if not accepts([value])]
    if missing := [place for place in wrong if column[place] is _MISSING]:
        advice = "; write 0 where nothing counted radar points" if field == "num_radar_pts" else ""
        token = quoted(rows[missing[0]].get("token", missing[0]))
        yield Finding(
            "field",
            name,
            token,
            f"{field} is missing in {len(missing)} of {len(rows)} rows of {name}, first {token}; "
            f"it is {expected}{advice}",
        )
    for place in [place for place in wrong if column[place] is not _MISSING][:_SHOWN_ROWS]:
        token = quoted(rows[place].get("token", place))
        yield Finding("field", name, token, f"{field} of {name} {token} is {quoted(column[place])}, not {expected}")


Accepts = Callable[[Sequence[Any]], bool]


def _texts(column: Sequence[Any]) -> bool:
    return {type(value) for value in column} == {str}


def _named(column: Sequence[Any]) -> bool:
    return _texts(column) and "" not in column


def _numbers(column: Sequence[Any]) -> bool:
    return {type(value) for value in column} <= {int, float} and all(abs(value) < 1e300 for value in column if value)


def _counts(column: Sequence[Any]) -> bool:
    return {type(value) for value in column} == {int} and min(column) >= 0 and max(column) < 1 << 53


def _sides(column: Sequence[Any]) -> bool:
    return _counts(column) and max(column) < 1 << 16


def _flags(column: Sequence[Any]) -> bool:
    return {type(value) for value in column} == {bool}


def _token_lists(column: Sequence[Any]) -> bool:
    return {type(value) for value in column} == {list} and all(type(item) is str for value in column for item in value)


def _paths(column: Sequence[Any]) -> bool:
    return _named(column) and not any(_leaves(path) for path in column)


def _leaves(path: str) -> bool:
    return bool(path.startswith("/") or _UNNAMEABLE.search(path) or ".." in PurePosixPath(path).parts)


def _vectors(length: int) -> Accepts:
    def accepts(column: Sequence[Any]) -> bool:
        try:
            array = np.array(column)
        except ValueError:  # ragged
            return False
        return array.shape == (len(column), length) and array.dtype.kind in "if"

    return accepts


def _intrinsics(column: Sequence[Any]) -> bool:
    matrices = [value for value in column if value != []]
    try:
        array = np.array(matrices)
    except ValueError:
        return False
    return not matrices or (array.shape == (len(matrices), 3, 3) and array.dtype.kind in "if")


_TOKEN = ("a token, which is a text", _named)
_LINK = ("a token, or an empty text", _texts)
_NUMBER = ("a number", _numbers)
_COUNT = ("a whole number from 0 on", _counts)
_PLACE = ("3 numbers", _vectors(3))
_TURN = ("4 numbers", _vectors(4))
_NAME = ("a name", _named)
_TOKENS = ("a list of tokens", _token_lists)
_PATH = ("a path inside the data set", _paths)

FIELDS: dict[str, dict[str, tuple[str, Accepts]]] = {
    "attribute": {"name": _NAME},
    "calibrated_sensor": {
        "sensor_token": _TOKEN, "translation": _PLACE, "rotation": _TURN,
        "camera_intrinsic": ("3 rows of 3 numbers, or empty", _intrinsics),
    },
    "category": {"name": _NAME},
    "ego_pose": {"translation": _PLACE, "rotation": _TURN},
    "instance": {"category_token": _TOKEN},
    "log": {},
    "map": {"filename": _PATH, "log_tokens": _TOKENS},
    "sample": {"timestamp": _NUMBER, "scene_token": _TOKEN, "prev": _LINK, "next": _LINK},
    "sample_annotation": {
        "sample_token": _TOKEN, "instance_token": _TOKEN, "attribute_tokens": _TOKENS, "translation": _PLACE,
        "size": _PLACE, "rotation": _TURN, "num_lidar_pts": _COUNT, "num_radar_pts": _COUNT, "prev": _LINK,
        "next": _LINK,
    },
    "sample_data": {
        "sample_token": _TOKEN, "ego_pose_token": _TOKEN, "calibrated_sensor_token": _TOKEN, "timestamp": _NUMBER,
        "is_key_frame": ("true or false", _flags), "height": ("a number of pixels", _sides),
        "width": ("a number of pixels", _sides), "filename": _PATH,
    },
    "scene": {"name": _NAME, "nbr_samples": _COUNT, "first_sample_token": _LINK, "last_sample_token": _LINK},
    "sensor": {"channel": _NAME, "modality": _NAME},
    "visibility": {},
}  # fmt: skip
"""Of each table the fields that are read by the devkit or here, what is expected in words, and the test of a column."""

_REFERENCES = (
    ("calibrated_sensor", "sensor_token", "sensor"),
    ("instance", "category_token", "category"),
    ("sample", "prev", "sample"),
    ("sample", "next", "sample"),
    ("sample_annotation", "sample_token", "sample"),
    ("sample_annotation", "instance_token", "instance"),
    ("sample_annotation", "prev", "sample_annotation"),
    ("sample_annotation", "next", "sample_annotation"),
    ("sample_data", "sample_token", "sample"),
    ("sample_data", "ego_pose_token", "ego_pose"),
    ("sample_data", "calibrated_sensor_token", "calibrated_sensor"),
    ("scene", "first_sample_token", "sample"),
    ("scene", "last_sample_token", "sample"),
)


def _repeated(tables: Tables) -> Iterator[Finding]:
    """Tokens that two rows of a table share, and scenes of one name."""
    for name, rows in tables.items():
        fields = ("token", "name") if name == "scene" else ("token",)
        for field in fields:
            values = [row[field] for row in rows]
            if len(set(values)) < len(values):
                for value, count in Counter(values).items():
                    if count > 1:
                        yield Finding("token", name, value, f"{count} rows of {name} have the {field} {quoted(value)}")


def _references(tables: Tables) -> Iterator[Finding]:
    tokens = {name: {row["token"] for row in rows} for name, rows in tables.items()}
    for name, field, target in _REFERENCES:
        known = tokens[target]
        lost = [row for row in tables[name] if row[field] and row[field] not in known]
        yield from (_lost(name, row, field=field, value=row[field], target=target) for row in lost[:_SHOWN_ROWS])
    known = tokens["attribute"]
    for row in tables["sample_annotation"]:
        for value in row["attribute_tokens"]:
            if value not in known:
                yield _lost("sample_annotation", row, field="attribute_tokens", value=value, target="attribute")


def _lost(name: str, row: Row, *, field: str, value: str, target: str) -> Finding:
    token = row["token"]
    sentence = f"{field} of {name} {quoted(token)} is {quoted(value)}, which {target}.json does not hold"
    return Finding("reference", name, token, sentence)


def _maps(tables: Tables, *, root: Path) -> Iterator[Finding]:
    """What the devkit asks of maps, though no box depends on it: a map of each log, and its file."""
    drawn = {token for row in tables["map"] for token in row["log_tokens"]}
    if not tables["map"]:
        yield Finding("map", "map", "", "map.json is empty; the devkit needs the map of each log, if only a stub")
    elif lacking := [row["token"] for row in tables["log"] if row["token"] not in drawn]:
        yield Finding(
            "map",
            "log",
            lacking[0],
            f"map.json has no map of {len(lacking)} of {len(tables['log'])} logs, first {lacking[0]}",
        )
    for row in tables["map"]:
        if not (root / row["filename"]).is_file():
            yield Finding("map", "map", row["token"], f"map {root / row['filename']} is missing; unpack the maps")
