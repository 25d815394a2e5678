"""What a command gives back: plain dicts and lists that the door prints or writes as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipelines.store.artifacts import Artifact

Outcome = dict[str, Any]


def table(title: str, *, headers: Sequence[str], rows: Iterable[Sequence[Any]], notes: Iterable[str] = ()) -> Outcome:
    """One table: a title, column names, rows of text and numbers, and sentences under it."""
    return {"title": title, "headers": list(headers), "rows": [list(row) for row in rows], "notes": list(notes)}


def finished(
    artifact: Artifact | None,
    *,
    tables: Iterable[Outcome] = (),
    metrics: Mapping[str, Any] | None = None,
    messages: Iterable[str] = (),
) -> Outcome:
    """A command that did its work.

    Args:
        artifact: What it made or found.
        tables: Tables of ``table``, in the order they are read.
        metrics: Numbers by name, nested freely.
        messages: Sentences, the last one saying what was made and where.
    """
    return {
        "artifact": artifact.summary() if artifact else None,
        "tables": list(tables),
        "metrics": dict(metrics or {}),
        "messages": list(messages),
        "plan": [],
    }


def dry(plan: Sequence[str]) -> Outcome:
    """A command that only says what it would do, one sentence a step."""
    return finished(None) | {"plan": list(plan)}
