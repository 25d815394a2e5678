"""How what somebody typed, or a file held, is shown in a sentence: cut, on one line, nothing a terminal would obey."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

LONGEST_QUOTE = 200
LONGEST_SENTENCE = 490
_CUT = " ... "


def quoted(value: object) -> str:
    r"""A value as Python writes it, so that control characters are seen and not obeyed; its middle cut out if long.

    >>> quoted("w4a6"), quoted("a\x1b[2J"), len(quoted("x" * 10**6))
    ("'w4a6'", "'a\\x1b[2J'", 200)
    """
    if isinstance(value, str):
        return _cut(repr(value[: 2 * LONGEST_QUOTE]), length=LONGEST_QUOTE)
    return _cut(printable(str(value)), length=LONGEST_QUOTE)


def sentence(text: str) -> str:
    r"""A message as one line that can be printed; of long words and of a long whole the middle is cut out.

    What is wrong stands at the start of a message, advice at its end.

    >>> sentence("no file a\nb"), len(sentence("x" * 10**6)), len(sentence("x " * 10**6))
    ('no file a\\nb', 200, 490)
    """
    words = re.sub(rf"\S{{{LONGEST_QUOTE + 1},}}", lambda word: _cut(word[0], length=LONGEST_QUOTE), printable(text))
    return _cut(words, length=LONGEST_SENTENCE)


def nearest(word: str, known: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """The known name that is most like a mistyped one; None where none is.

    Args:
        word: What was typed.
        known: Names that are right.
        cutoff: Likeness asked for, 0 to 1.
    """
    return next(iter(difflib.get_close_matches(word[:LONGEST_QUOTE], list(known), n=1, cutoff=cutoff)), None)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The question that follows a mistyped name; empty where no known name is near.

    >>> did_you_mean("gpttq", ["ptq", "gptq"]), did_you_mean("x", ["ptq"])
    ('; did you mean gptq?', '')
    """
    near = nearest(word, known)
    return f"; did you mean {near}?" if near else ""


def counted(count: int, noun: str) -> str:
    """A number with its noun in the singular or the plural.

    >>> counted(1, "artifact"), counted(2, "artifact"), counted(0, "profile")
    ('1 artifact', '2 artifacts', '0 profiles')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def printable(text: str) -> str:
    r"""Text with each character that is not printable as its escape.

    >>> printable("a\x1b[2Jb")
    'a\\x1b[2Jb'
    """
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def _cut(text: str, *, length: int) -> str:
    if len(text) <= length:
        return text
    tail = length // 3
    return text[: length - tail - len(_CUT)] + _CUT + text[-tail:]
