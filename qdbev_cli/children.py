"""Forked processes end with the command, however it ends: by itself, by a request, killed, in the middle of a fork.

Each reads from a pipe whose other end the command alone holds open. Nothing is ever written: the read returns when the
command is gone. A list of children to kill misses one that a thread is just forking.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading


class _Pipe:
    """Open as long as the command lives."""

    ends_with_command = -1
    """The end that children read."""
    of_command: int | None = None
    """The end that the command holds; None in a child, which has closed it."""


def bind() -> None:
    """From now on, what this process forks ends with it."""
    _Pipe.ends_with_command, _Pipe.of_command = os.pipe()
    os.register_at_fork(after_in_child=_wait_for_the_end)


def end() -> None:
    """Kill those that multiprocessing knows: a spawned one has no such pipe, and one at work may not look at it."""
    with contextlib.suppress(Exception):
        if (multiprocessing := sys.modules.get("multiprocessing")) is not None:
            for child in multiprocessing.active_children():
                child.kill()


def wait_for_none() -> None:
    """Keep multiprocessing's exit handler from joining them: one may wait for work, or for a lock of one killed."""
    if (util := sys.modules.get("multiprocessing.util")) is not None:
        atexit.unregister(util._exit_function)


def _wait_for_the_end() -> None:
    if _Pipe.of_command is not None:
        os.close(_Pipe.of_command)
        _Pipe.of_command = None
    threading.Thread(target=_end_with_command, daemon=True).start()


def _end_with_command() -> None:
    if os.read(_Pipe.ends_with_command, 1) == b"":
        os._exit(1)
