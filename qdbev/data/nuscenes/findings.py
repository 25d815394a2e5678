"""What is wrong, or odd, with a data set: findings with a code, the table and the row, and a sentence each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_SHOWN = 3
_LONGEST = 200


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong."""

    code: str
    """What kind: ``field``, ``time``, ``camera`` ... (docs/data.md has them all)."""
    table: str
    """Name of the table, or ``can_bus`` or ``samples`` for files."""
    token: str
    """Token of the row, the name of a scene, or the path of a file."""
    sentence: str
    """What is wrong and what to do."""
    error: bool = True
    """Whether numbers would be wrong; false warns."""


def warning(code: str, table: str, token: str, sentence: str) -> Finding:
    """A finding that does not stop anything."""
    return Finding(code, table, token, sentence, error=False)


def quoted(value: object) -> str:
    r"""A value of a foreign file for a sentence: its control characters escaped, cut where it is long.

    >>> print(quoted("a\x01"), len(quoted("a" * 1000)))
    'a\x01' 203
    """
    text = ascii(value)
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "..."


def errors_of(findings: Iterable[Finding]) -> list[Finding]:
    """Those that stop a command."""
    return [finding for finding in findings if finding.error]


def counted(findings: Iterable[Finding]) -> dict[str, int]:
    """Number of findings of each code, in the order of their first."""
    return dict(Counter(finding.code for finding in findings))


def first_of_each(findings: Sequence[Finding], *, count: int) -> list[Finding]:
    """The first ``count`` findings of every code."""
    seen: Counter[str] = Counter()
    shown = []
    for finding in findings:
        seen[finding.code] += 1
        if seen[finding.code] <= count:
            shown.append(finding)
    return shown


def refuse_errors(findings: Sequence[Finding], *, root: object) -> None:
    """Refuse data with errors.

    Raises:
        ValueError: With the first sentences, one of each code before a second.
    """
    errors = errors_of(findings)
    if not errors:
        return
    shown = first_of_each(errors, count=1)[:_SHOWN]
    more = len(errors) - len(shown)
    rest = f"; and {more} more, which `qdbev data prepare --root {root}` lists" if more else ""
    raise ValueError("; ".join(finding.sentence.rstrip(".") for finding in shown) + rest)


def notes_of(findings: Sequence[Finding]) -> list[str]:
    """The warnings as sentences, the first of each code with the number of the others."""
    notes = []
    warnings = [finding for finding in findings if not finding.error]
    for code, count in counted(warnings).items():
        first = next(finding.sentence for finding in warnings if finding.code == code)
        notes.append(first if count == 1 else f"{first} (and {count - 1} more of this kind)")
    return notes
