"""The end of a command: what was printed goes out, exit handlers run, children end; nothing is taken apart.

Python frees every module and tensor before it ends, which took a fifth of a short command's time. The system frees all
of it at once.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import os
import sys
from typing import NoReturn, TextIO

from qdbev_cli import children, speaking, stopping

PIPE_CLOSED = 141
"""What the shell says of a program that wrote to a pipe nobody reads: 128 + SIGPIPE."""
UNWRITABLE = 3


def leave(code: int) -> NoReturn:
    """End this process; a request to stop that came has the last word on the code.

    Args:
        code: Exit code of the command.
    """
    code = stopping.code() or flushed(code)
    if not speaking.alone():  # the processes of a launcher part in their own order
        sys.exit(code)
    children.wait_for_none()
    with contextlib.suppress(Exception):
        atexit._run_exitfuncs()
    children.end()
    os._exit(flushed(code))


def flushed(code: int) -> int:
    """Push out what was printed; the exit code, which is another where nobody reads it or it cannot be written."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None and not stream.closed:
                stream.flush()
        except OSError as error:
            code = code_of_stream(error)
            if code == UNWRITABLE and stream is sys.stdout:
                say(f"stdout cannot be written: {error.strerror}")
            silence(stream)
    return code


def code_of_stream(error: OSError) -> int:
    """The exit code where stdout takes no more."""
    return PIPE_CLOSED if error.errno in (errno.EPIPE, errno.ESHUTDOWN) else UNWRITABLE


def silence(stream: TextIO | None) -> None:
    """Send what is still to come on a stream nowhere, so that Python does not complain at the end."""
    with contextlib.suppress(Exception):
        if stream is not None:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


def say(text: str) -> None:
    """Print a sentence to stderr, where there is one."""
    with contextlib.suppress(OSError, ValueError):
        print(f"qdbev: {text}", file=sys.stderr, flush=True)
