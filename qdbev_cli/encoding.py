"""Printing where the terminal's or pipe's encoding lacks a character: a near one instead, never an error."""

from __future__ import annotations

import codecs
import io
import sys

NEAR = {
    **dict.fromkeys("\N{EN DASH}\N{EM DASH}\N{MINUS SIGN}\N{HYPHEN}\N{BOX DRAWINGS LIGHT HORIZONTAL}", "-"),
    **dict.fromkeys("\N{LEFT SINGLE QUOTATION MARK}\N{RIGHT SINGLE QUOTATION MARK}\N{PRIME}", "'"),
    **dict.fromkeys("\N{LEFT DOUBLE QUOTATION MARK}\N{RIGHT DOUBLE QUOTATION MARK}", '"'),
    "\N{MULTIPLICATION SIGN}": "x",
    "\N{HORIZONTAL ELLIPSIS}": "~",
    "\N{RIGHTWARDS ARROW}": ">",
    "\N{BOX DRAWINGS LIGHT VERTICAL}": "|",
    "\N{NO-BREAK SPACE}": " ",
    "\N{NARROW NO-BREAK SPACE}": " ",
}
"""One for one, so that columns stay in line; a character that is not here becomes a question mark."""


def near(error: UnicodeError) -> tuple[str, int]:
    """What stands in for characters that an encoding lacks.

    >>> import codecs
    >>> codecs.register_error("near", near)
    >>> "0.41 \N{EN DASH} 0.43, 7.8\N{MULTIPLICATION SIGN}, \N{GREEK SMALL LETTER ALPHA}".encode("ascii", "near")
    b'0.41 - 0.43, 7.8x, ?'
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(NEAR.get(character, "?") for character in lacking), error.end


def speak_any_encoding() -> None:
    """Let stdout and stderr take every character."""
    codecs.register_error("near", near)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="near")


def takes_all(stream: object) -> bool:
    """Whether a stream's encoding holds every character; JSON is written in ASCII where it does not."""
    name = getattr(stream, "encoding", None) or "utf-8"
    try:
        return codecs.lookup(name).name.startswith("utf")
    except LookupError:
        return False
