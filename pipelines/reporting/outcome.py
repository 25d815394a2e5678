"""What a command gives back: one value that the door prints as text or as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the door imports this for its help, which must come at once
    from pipelines.store.artifacts import Artifact
    from qdbev.reporting.tables.table import Table


@dataclass(frozen=True)
class Outcome:
    """What a command made, measured and has to say."""

    artifact: Artifact | None = None
    """What it made, or found as it would make it."""

    _: KW_ONLY

    tables: Sequence[Table] = ()
    """Tables in the order they are read."""

    metrics: Mapping[str, Any] = field(default_factory=dict)
    """Numbers by name, nested freely."""

    messages: Sequence[str] = ()
    """Sentences, the last one saying what comes next or what was made."""

    would_do: Sequence[str] = ()
    """The answer of a dry run: one sentence a step."""

    document: str | None = None
    """What another program reads. It has stdout for itself, to the byte; empty where it went into a file."""

    details: Mapping[str, Any] = field(default_factory=dict)
    """What a program wants besides: entries that stand in the JSON under their own names."""

    ok: bool = True
    """Whether all is there and sound; where it is not, the door ends with the exit code for that."""
