r"""What is told while a command works: bars on a terminal, lines elsewhere, and the same lines in a log file.

A bar is drawn over and over by ``\r``. Where stderr is no terminal, or one without rows, that would fill a log with
remains of bars, so a bar becomes a line a minute.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO, cast

from profiles.wording import sentence as in_short
from qdbev_cli import leaving

_OURS = ("pipelines", "qdbev")
_LINES = {"TQDM_MININTERVAL": "60", "TQDM_MAXINTERVAL": "60", "TQDM_DELAY": "5"}
"""Of bars that become lines: a line a minute, none of a bar that is over in seconds."""


@dataclass(frozen=True)
class Telling:
    """How much is told, and where."""

    quiet: bool = False
    """Warnings and errors alone."""
    verbose: bool = False
    """Also what is found, and tracebacks of errors."""
    log_file: Path | None = None
    """Where lines go besides, each with its time."""

    @property
    def level(self) -> int:
        """The least level of what is told."""
        return logging.WARNING if self.quiet else logging.DEBUG if self.verbose else logging.INFO


PLAINLY = Telling()


def bars_fit() -> bool:
    """Whether stderr is a terminal with rows, in which bars can be drawn over."""
    try:
        return sys.stderr.isatty() and os.get_terminal_size(sys.stderr.fileno()).lines > 0
    except (OSError, ValueError, AttributeError):
        return False


@contextlib.contextmanager
def told(telling: Telling) -> Iterator[None]:
    """Around the work of a command: what is logged goes to stderr and into the log file as it comes.

    Raises:
        OSError: The log file cannot be written.
    """
    with contextlib.ExitStack() as held:
        handlers: list[logging.Handler] = [_Teller(telling.level)]
        if telling.log_file is not None:
            handlers.append(held.enter_context(_log_file(telling.log_file)))
        if not bars_fit():
            held.enter_context(_lines_for_bars())
        for logger in map(logging.getLogger, _OURS):
            held.callback(logger.setLevel, logger.level)
            logger.setLevel(min(telling.level, logging.INFO))
            for handler in handlers:
                logger.addHandler(handler)
                held.callback(logger.removeHandler, handler)
        yield


class _Teller(logging.Handler):
    """Prints what is logged: warnings as the sentences of errors are printed, what is finished as a line."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one."""
        _without_bars(lambda: self._say(record))

    def _say(self, record: logging.LogRecord) -> None:
        text = in_short(record.getMessage())
        if record.levelno >= logging.WARNING:
            leaving.say(text)
        else:
            with contextlib.suppress(OSError, ValueError):
                print(text, file=sys.stderr, flush=True)


def _without_bars(write: Callable[[], None]) -> None:
    """Write while no bar is drawn; tqdm draws them again below."""
    tqdm: Any = sys.modules.get("tqdm")
    with tqdm.tqdm.external_write_mode() if tqdm else contextlib.nullcontext():
        write()


@contextlib.contextmanager
def _log_file(path: Path) -> Iterator[logging.Handler]:
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(_WithTime())
    handler.setLevel(logging.INFO)
    handler.emit(_record(f"qdbev {' '.join(sys.argv[1:])}"))
    try:
        yield handler
    except BaseException as error:
        handler.emit(_record(f"ended by {type(error).__name__}: {in_short(str(error))}"))
        raise
    finally:
        handler.close()


def _record(text: str) -> logging.LogRecord:
    return logging.LogRecord("qdbev_cli", logging.INFO, "", 0, "%s", (text,), None)


class _WithTime(logging.Formatter):
    """A line with its local time."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        moment = datetime.datetime.fromtimestamp(record.created).astimezone()
        return f"{moment.isoformat(timespec='seconds')} {in_short(record.getMessage())}"


@contextlib.contextmanager
def _lines_for_bars() -> Iterator[None]:
    """Let each bar print a line a minute; a setting of the environment (TQDM_...) has the last word."""
    ours = {name: value for name, value in _LINES.items() if name not in os.environ}
    os.environ.update(ours)
    stream = sys.stderr
    sys.stderr = cast(TextIO, _Lines(stream))
    try:
        yield
    finally:
        sys.stderr = stream
        for name in ours:
            del os.environ[name]


class _Lines:
    """A stream on which what is drawn from the start of the line again becomes a line of its own."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._ended = False  # a bar's line, by us

    def write(self, text: str) -> int:
        """Write text; what remains of a bar ends with the line, and its empty ends are left out."""
        if "\r" in text:
            lines = [line.strip() for line in text.replace("\x1b[A", "").split("\r")]
            self._stream.write("".join(f"{line}\n" for line in lines if line))
        elif not (self._ended and text == "\n"):
            self._stream.write(text)
        self._ended = "\r" in text
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
