"""Tables on narrow terminals: texts broken between words, then columns in groups that fit, the first in each."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence

GAP = 2
"""Spaces between columns, and what tabulate leaves beside each head at least."""
Lines = Sequence[Sequence[str]]


def broken(lines: Lines, *, texts: Sequence[bool], width: int) -> Lines:
    r"""Heads and cells of texts broken between words, where that alone makes a table fit; else all as it is.

    >>> broken([["kind", "stage"], ["qat", "QAT 1/4 (+neck)"]], texts=[True, True], width=15)
    [['kind', 'stage'], ['qat', 'QAT 1/4\n(+neck)']]

    Args:
        lines: Heads, then cells.
        texts: Of each column, whether it holds texts; numbers are never broken.
        width: Characters in a line.
    """
    widths, shortest = _widths(lines, _longest_line), _widths(lines, _longest_word)
    least = [word if text else full for word, full, text in zip(shortest, widths, texts, strict=True)]
    if _whole(widths) <= width or _whole(least) > width:
        return lines
    while _whole(widths) > width:
        widest = max((full, place) for place, full in enumerate(widths) if full > least[place])[1]
        widths[widest] -= 1
    heads, *cells = lines
    return [_filled(heads, widths=[full - GAP for full in widths]), *(_filled(line, widths=widths) for line in cells)]


def groups(lines: Lines, *, width: int) -> list[list[int]]:
    """Places of columns that stand side by side, the first column in front of each group.

    >>> groups([["name", "NDS", "mAP"], ["float", "0.560", "0.476"]], width=14)
    [[0, 1], [0, 2]]

    Args:
        lines: Heads, then cells.
        width: Characters in a line.
    """
    widths = _widths(lines, _longest_line)
    if _whole(widths) <= width:
        return [list(range(len(widths)))]
    folded = [[0]]
    for place in range(1, len(widths)):
        if len(folded[-1]) > 1 and _whole([widths[beside] for beside in (*folded[-1], place)]) > width:
            folded.append([0])
        folded[-1].append(place)
    return folded


def _widths(lines: Lines, measure: Callable[[str], int]) -> list[int]:
    heads, *cells = lines
    return [max(measure(head) + GAP, *(measure(line[place]) for line in cells), 0) for place, head in enumerate(heads)]


def _whole(widths: Sequence[int]) -> int:
    return sum(widths) + GAP * (len(widths) - 1)


def _longest_line(cell: str) -> int:
    return max(map(len, cell.split("\n")))


def _longest_word(cell: str) -> int:
    return max(map(len, cell.split()), default=0)


def _filled(line: Sequence[str], *, widths: Sequence[int]) -> list[str]:
    return [
        textwrap.fill(cell, full, break_long_words=False, break_on_hyphens=False)
        if _longest_line(cell) > full
        else cell
        for cell, full in zip(line, widths, strict=True)
    ]
