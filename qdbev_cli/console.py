"""What the shell sees: tables, messages, JSON, sentences for errors, exit codes.

stdout holds outcomes alone: whatever libraries print while a command runs goes to stderr.

Exit codes: 0 done; 1 a bug; 2 usage or profile; 3 missing or damaged artifact or data, or what the machine lacks;
130, 143, 129 stopped by Ctrl-C, SIGTERM, SIGHUP; 141 nobody reads stdout any more.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import typer

from pipelines.reporting.outcome import Outcome
from profiles.wording import sentence as in_short
from qdbev_cli import leaving, machine, stopping
from qdbev_cli.encoding import takes_all
from qdbev_cli.speaking import has_word
from qdbev_cli.telling import PLAINLY, Telling, told

BUG, USAGE, INPUT, STOPPED = 1, 2, 3, 130
_OF_FILES = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ENAMETOOLONG)


def guarded(action: Callable[[], Outcome], *, as_json: bool, telling: Telling = PLAINLY) -> None:
    """Run a command and print its outcome, or the sentence for what went wrong.

    With ``as_json`` stdout carries exactly one JSON document, also for an error; an error's ``details`` are in it.

    Args:
        action: The command.
        as_json: Whether stdout is for a program.
        telling: How much is told on the way.

    Raises:
        typer.Exit: With the exit code, unless all went well.
    """
    try:
        with stopping.heard(), told(telling), contextlib.redirect_stdout(sys.stderr):
            outcome = action()
        code = _code(outcome)
    except (typer.Exit, SystemExit):
        raise
    except (Exception, KeyboardInterrupt) as error:
        code = stopping.code() or exit_code(error)
        sentence = _explain(error, code=code, verbose=telling.verbose)
        details = getattr(error, "details", None)
        code = refuse(sentence, code=code, as_json=as_json, details=details if isinstance(details, Mapping) else {})
    else:
        code = _printed(lambda: _show(outcome, as_json=as_json), code=code)
    if code:
        raise typer.Exit(code)


def refuse(sentence: str, *, code: int, as_json: bool, details: Mapping[str, Any] = MappingProxyType({})) -> int:
    """Say an error on stderr, with ``as_json`` on stdout too; the exit code, another where stdout takes no more.

    Of several processes only the first that fails says it.
    """
    if not has_word():
        return code
    leaving.say(sentence)
    answer = {"error": sentence, "exit_code": code, **details}
    return _printed(lambda: typer.echo(_json(answer)) if as_json else None, code=code)


def _printed(write: Callable[[], None], *, code: int) -> int:
    """Write to stdout; the exit code, which is another where it takes no more."""
    try:
        write()
    except OSError as error:
        code = leaving.code_of_stream(error)
        if code != leaving.PIPE_CLOSED:
            leaving.say(f"stdout cannot be written: {error.strerror}")
        leaving.silence(sys.stdout)
    return code


def exit_code(error: BaseException) -> int:
    """The exit code for an exception."""
    from pipelines.store.artifacts import UnusableInput

    if isinstance(error, KeyboardInterrupt):
        return STOPPED
    if isinstance(error, UnusableInput) or machine.explained(error):
        return INPUT
    if isinstance(error, OSError) and (error.filename is not None or error.errno in _OF_FILES):
        return INPUT
    return USAGE if isinstance(error, ValueError | NotImplementedError) else BUG


def as_text(outcome: Outcome, *, width: int | None = None) -> str:
    """Tables, what a dry run would do, messages, and last what was made and where.

    Args:
        outcome: Whose document, where it has one, holds the tables already.
        width: Characters in a line, which tables are folded to; None folds nothing.
    """
    from qdbev.reporting.tables.table import render

    blocks = [render(table, width=width).rstrip() for table in outcome.tables if outcome.document is None]
    if outcome.would_do:
        blocks.append("\n".join(["Would do:", *(f"  {step}" for step in outcome.would_do)]))
    lines = list(outcome.messages)
    if outcome.artifact is not None:
        made = outcome.artifact.summary()
        lines.append(f"{made['kind']} {made['name']} ({made['digest'][:12]}): {made['path']}")
    if lines:
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def as_document(outcome: Outcome) -> str:
    """The outcome as one JSON document, without what is a document itself."""
    return _json(
        {
            "artifact": outcome.artifact.summary() if outcome.artifact else None,
            "tables": _documents(outcome),
            "metrics": outcome.metrics,
            "messages": outcome.messages,
            "would_do": outcome.would_do,
            "ok": outcome.ok,
            "exit_code": _code(outcome),
            **outcome.details,
        }
    )


def _code(outcome: Outcome) -> int:
    return 0 if outcome.ok else INPUT


def _json(answer: Mapping[str, Any]) -> str:
    """One JSON document; NaN and infinity, which JSON lacks, become null."""
    return json.dumps(_plain(answer), indent=2, ensure_ascii=not takes_all(sys.stdout), allow_nan=False)


def _show(outcome: Outcome, *, as_json: bool) -> None:
    """Print an outcome; a document has stdout for itself, to the byte, and all else goes to stderr.

    Of several processes only the first prints.
    """
    from pipelines.store import processes

    if not processes.is_first():
        return
    if as_json:
        typer.echo(as_document(outcome))
        return
    if outcome.document is not None:
        typer.echo(outcome.document, nl=False)
    if text := as_text(outcome, width=line_width()):
        typer.echo(text, err=outcome.document is not None)


def line_width() -> int | None:
    """Characters in a line of the terminal that stdout is; None where it is none, or does not say."""
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or None if sys.stdout.isatty() else None
    except (OSError, ValueError, AttributeError):
        return None


def _documents(outcome: Outcome) -> list[dict[str, Any]]:
    """The tables in the one form that all JSON has."""
    if not outcome.tables:
        return []
    from qdbev.reporting.tables.table import as_document as table_document

    return [table_document(table) for table in outcome.tables]


def _explain(error: BaseException, *, code: int, verbose: bool) -> str:
    if (code == BUG and has_word()) or verbose or os.environ.get("QDBEV_DEBUG"):
        traceback.print_exception(error, file=sys.stderr)
    if code == STOPPED or stopping.code():
        return stopping.sentence()
    if of_machine := machine.explained(error):
        return in_short(of_machine)
    text = str(error) or type(error).__name__
    if isinstance(error, OSError) and error.filename is not None:
        text = f"{error.filename}: {error.strerror}"
    return in_short(f"this is a bug in qdbev ({type(error).__name__}: {text})" if code == BUG else text)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(entry) for entry in value]
    if value is not None and not isinstance(value, str | int | float) and hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, str | int | float) else str(value)
