"""Large JSON files part by part: a table's rows, a submission's samples, never all of them as objects at once.

A file is cut at separators that lie where they lie in files of this shape; each part is closed into a document and
parsed. Where a cut was wrong (a string that looks like a separator, deeper nesting), the part is no JSON, and the
whole file is parsed instead. Files may be compressed by gzip, whatever their names.
"""

from __future__ import annotations

import contextlib
import gc
import gzip
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pydantic_core

Made = TypeVar("Made")


class NotJson(ValueError):
    """A file is no JSON."""


PART_BYTES = 2 << 20
_GZIP = b"\x1f\x8b"
_ROWS = re.compile(rb"\}\s*(,)\s*(?=\{)"), b"[", b"]"
_LONGEST_REASON = 200
_SAMPLES = re.compile(rb'\}\s*\]\s*(,)\s*(?=")'), b'{"results":{', b"}}"


def from_rows(path: Path, *, make: Callable[[Any], Made]) -> list[Made]:
    """What ``make`` makes of a list of flat objects, part by part.

    Raises:
        NotJson: The file is no JSON.
        OSError: It cannot be read.
    """
    return _made(_read(path), *_ROWS, make=make)


def from_submission(path: Path, *, make: Callable[[Any], Made]) -> list[Made]:
    """The same of ``{"meta": ..., "results": {token: [objects], ...}}``: each part is such a dict."""
    return _made(_read(path), *_SAMPLES, make=make)


def _made(
    data: bytes, separator: re.Pattern[bytes], opening: bytes, closing: bytes, *, make: Callable[[Any], Made]
) -> list[Made]:
    with _no_collection():
        try:
            return [make(part) for part in _parts(data, separator, opening, closing)]
        except (LookupError, TypeError, ValueError):  # a wrong cut, or what will be said of the whole
            return [make(_parsed(data))]


def _parts(data: bytes, separator: re.Pattern[bytes], opening: bytes, closing: bytes) -> Iterator[Any]:
    start, before = 0, b""
    while cut := separator.search(data, start + PART_BYTES):
        yield _parsed(before + data[start : cut.start(1)] + closing)
        start, before = cut.end(1), opening
    yield _parsed(before + data[start:])


def whole(path: Path) -> Any:
    """The content of a file, parsed at once; raises as ``from_rows``."""
    with _no_collection():
        return _parsed(_read(path))


def _read(path: Path) -> bytes:
    data = path.read_bytes()
    if not data.startswith(_GZIP):
        return data
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise NotJson(f"gzip: {error}") from error


def _parsed(data: bytes) -> Any:
    try:
        return pydantic_core.from_json(data)
    except ValueError as error:
        raise NotJson(str(error)[:_LONGEST_REASON]) from error


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """No search for cycles while objects without any are made by the million: it takes longer than making them."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
