"""What the shell sees: tables, messages, JSON, sentences for errors, exit codes.

stdout holds results alone: whatever libraries print while a command runs goes to stderr.

Exit codes: 0 done; 1 a bug; 2 usage or profile; 3 missing or damaged artifact or data; 130 stopped by Ctrl-C.
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
from typing import Any

import typer

Result = Mapping[str, Any]
"""What a pipeline returns: ``artifact``, ``tables``, ``metrics``, ``messages``, ``plan``; some also a ``text`` to read
or a ``document`` for another program."""

BUG, USAGE, INPUT, STOPPED = 1, 2, 3, 130


def guarded(action: Callable[[], Result], *, as_json: bool) -> None:
    """Run a command and print its result, or the sentence for what went wrong.

    With ``as_json`` stdout carries exactly one JSON document, also for an error; an error's ``details`` are in it.

    Raises:
        typer.Exit: With the exit code, unless all went well.
    """
    try:
        with contextlib.redirect_stdout(sys.stderr):
            result = action()
        code = int(result.get("exit_code", 0))
    except (typer.Exit, SystemExit, BrokenPipeError):
        raise
    except (Exception, KeyboardInterrupt) as error:
        code = exit_code(error)
        sentence = _explain(error, code=code)
        details = getattr(error, "details", None)
        result = {"error": sentence, "exit_code": code, **(details if isinstance(details, Mapping) else {})}
        typer.echo(f"qdbev: {sentence}", err=True)
        if as_json:
            typer.echo(as_document(result))
    else:
        _show(result, as_json=as_json)
    if code:
        raise typer.Exit(code)


def exit_code(error: BaseException) -> int:
    """The exit code for an exception."""
    from pipelines.store.artifacts import UnusableInput

    if isinstance(error, KeyboardInterrupt):
        return STOPPED
    if isinstance(error, UnusableInput | FileNotFoundError | NotADirectoryError | PermissionError):
        return INPUT
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        return INPUT
    return USAGE if isinstance(error, ValueError | NotImplementedError) else BUG


def as_text(result: Result) -> str:
    """Tables, text, the plan of a dry run, messages, and last what was made and where."""
    blocks = [_table(table) for table in result.get("tables") or ()]
    if text := str(result.get("text", "")).rstrip():
        blocks.append(text)
    plan = result.get("plan")
    if plan:
        blocks.append("\n".join(["Would do:", *(f"  {_step(step)}" for step in plan)]))
    lines = [str(message) for message in result.get("messages") or ()]
    artifact = result.get("artifact")
    if artifact:
        lines.append(f"{artifact['kind']} {artifact['name']} ({artifact['digest'][:12]}): {artifact['path']}")
    if lines:
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def as_document(result: Result) -> str:
    """The result as one JSON document; NaN and infinity, which JSON lacks, become null."""
    plain = {name: value for name, value in result.items() if name not in ("text", "document")}
    return json.dumps(_plain(plain), indent=2, ensure_ascii=False, allow_nan=False)


def _show(result: Result, *, as_json: bool) -> None:
    """Print a result; a ``document`` has stdout for itself, to the byte, and all else goes to stderr.

    Of several processes only the first prints.
    """
    from pipelines.store import processes

    if not processes.is_first():
        return
    if as_json:
        typer.echo(as_document(result))
        return
    document = result.get("document")
    if document is not None:
        typer.echo(document, nl=False)
    if text := as_text(result):
        typer.echo(text, err=document is not None)


def _table(table: Mapping[str, Any]) -> str:
    from tabulate import tabulate

    rows = [[_cell(value) for value in row] for row in table["rows"]]
    body = tabulate(rows, headers=table["headers"], tablefmt="simple", disable_numparse=True, colalign=_align(table))
    title = [str(table["title"]), ""] if table.get("title") else []
    return "\n".join([*title, body, *(str(note) for note in table.get("notes") or ())])


def _align(table: Mapping[str, Any]) -> list[str]:
    """Columns of numbers to the right, all others to the left."""
    columns = zip(*table["rows"], strict=False)
    numeric = [all(value is None or isinstance(value, int | float) for value in column) for column in columns]
    return ["right" if one else "left" for one in numeric]


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) >= 10 else f"{value:.4f}"
    return str(value)


def _step(step: Any) -> str:
    if isinstance(step, Mapping):
        return ", ".join(f"{name}: {value}" for name, value in step.items())
    return str(step)


def _explain(error: BaseException, *, code: int) -> str:
    if code == BUG or os.environ.get("QDBEV_DEBUG"):
        traceback.print_exception(error, file=sys.stderr)
    if code == STOPPED:
        return "stopped; the same command goes on from the last saved state"
    text = str(error) or type(error).__name__
    if isinstance(error, OSError) and error.filename is not None:
        text = f"{error.filename}: {error.strerror}"
    return f"this is a bug in qdbev ({type(error).__name__}: {text})" if code == BUG else text


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(one) for one in value]
    if value is not None and not isinstance(value, str | int | float) and hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, str | int | float) else str(value)
