"""Camera files: whether their bytes are a whole picture, and its pixels as they are stored.

A JPEG is read up to its end marker, whatever lies behind; a name that ends in .jpg may hold a PNG. An orientation noted
in the file (EXIF) is left alone: calibration, tables and the devkit mean the pixels as stored.
"""

from __future__ import annotations

import re
import zlib
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

NOT_WHOLE = "is truncated or not an image"
HOLE = "has a hole: a run of zeros that no encoder writes"
OTHER_BYTES = "has bytes in its picture that no encoder writes"

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"IEND\xaeB`\x82"
_JPEG = b"\xff\xd8"
_JPEG_END = b"\xff\xd9"
_SCAN, _HUFFMAN = 0xDA, 0xC4
_BASELINE = (0xC0, 0xC1)
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_FOREIGN_MARKER = re.compile(rb"\xff[\x01-\xc3\xc5-\xcf\xd8\xde\xdf\xf0-\xfd]|\xff{4}")
"""No zero (a byte of 0xFF), restart, or start of what may stand between scans; nor more filling than between those."""
_HOLE_BYTES = 24  # zeros in a row; nuScenes' images have at most 2
_FLAT_HOLE_BYTES = 4096  # where the tables of a file let zeros mean an even surface

_Segments = list[tuple[int, int, int]]


def flaw(raw: bytes) -> str:
    """What is wrong with the bytes of an image file, as the end of a sentence; empty where nothing is.

    Its structure is looked at, its pixels are not decoded.

    >>> flaw(b"text")
    'is truncated or not an image'
    """
    if raw.startswith(_PNG):
        return _flaw_of_png(raw)
    if not raw.startswith(_JPEG):
        return "" if raw and decoded(raw) is not None else NOT_WHOLE
    segments = _segments(raw)
    if not segments or segments[-1][0] != _SCAN:
        return NOT_WHOLE
    start = segments[-1][2]
    end = raw.find(_JPEG_END, start)
    if end < 0:
        return NOT_WHOLE
    hole = _FLAT_HOLE_BYTES if _zeros_may_be_even(raw, segments) else _HOLE_BYTES
    if bytes(hole) in raw[start:end]:
        return HOLE
    return OTHER_BYTES if _has_foreign_marker(raw[start:end]) else ""


def _flaw_of_png(raw: bytes) -> str:
    """Whether its chunks follow each other up to the last, each with the sum that it states."""
    place, name = len(_PNG), b""
    while name != b"IEND":
        length, name = int.from_bytes(raw[place : place + 4]), raw[place + 4 : place + 8]
        stop = place + 8 + length
        if stop + 4 > len(raw):
            return NOT_WHOLE
        if zlib.crc32(raw[place + 4 : stop]) != int.from_bytes(raw[stop : stop + 4]):
            return OTHER_BYTES
        place = stop + 4
    return ""


def _has_foreign_marker(picture: bytes) -> bool:
    """Whether 0xFF stands before what no encoder puts behind it in the picture of a JPEG."""
    return _FOREIGN_MARKER.search(picture) is not None


def stated_size(raw: bytes) -> tuple[int, int] | None:
    """Height and width in pixels that the header of a JPEG or PNG states; None where it states none."""
    if raw.startswith(_PNG) and len(raw) >= 24:
        return int.from_bytes(raw[20:24]), int.from_bytes(raw[16:20])
    if raw.startswith(_JPEG):
        for marker, start, end in _segments(raw):
            if marker in _FRAMES and end - start >= 5:
                return int.from_bytes(raw[start + 1 : start + 3]), int.from_bytes(raw[start + 3 : start + 5])
    return None


def decoded(raw: bytes) -> NDArray[Any] | None:
    """The pixels of an image file as stored, BGR uint8; None where OpenCV finds no image."""
    try:
        return cv2.imdecode(np.frombuffer(raw, dtype=np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:  # a damaged header that announces an impossible size
        return None


def _segments(raw: bytes) -> _Segments:
    """Marker, start and end of each segment of a JPEG up to its first scan; none where the chain of them breaks."""
    place, segments = 2, []
    while place + 4 <= len(raw) and raw[place] == 0xFF:
        marker = raw[place + 1]
        if marker == 0xFF:  # filling before a marker
            place += 1
            continue
        end = place + 2 + int.from_bytes(raw[place + 2 : place + 4])
        segments.append((marker, place + 4, end))
        if marker == _SCAN:
            return segments
        place = end
    return []


def _zeros_may_be_even(raw: bytes, segments: _Segments) -> bool:
    """Whether zeros may encode an even surface: a progressive file, or one whose shortest code ends a block."""
    if not any(marker in _BASELINE for marker, *_ in segments):
        return True
    tables = (raw[start:end] for marker, start, end in segments if marker == _HUFFMAN)
    return any(symbol == 0 for table in tables for symbol in _first_symbols(table))


def _first_symbols(table: bytes) -> list[int]:
    """The symbol of code 00... of each AC table of luminance in a segment of Huffman tables."""
    symbols, place = [], 0
    while place + 17 <= len(table):
        count = sum(table[place + 1 : place + 17])
        if table[place] == 0x10 and count:
            symbols.append(table[place + 17])
        place += 17 + count
    return symbols
