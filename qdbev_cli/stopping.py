"""Requests to stop (Ctrl-C, SIGTERM, SIGHUP): from the first import on, a sentence and an exit code, no traceback.

While nothing is at work the process leaves at once. While a command works, ``Stopped`` is raised in it, so that what it
began is cleared away; where a library swallows that, it is raised again. A second request leaves at once. Forked
children leave Ctrl-C to their parent, which ends them. A request that was ignored before we began (nohup) stays so.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from types import FrameType

WORDS = {
    signal.SIGINT: "stopped",
    signal.SIGTERM: "stopped by SIGTERM",
    signal.SIGHUP: "stopped by SIGHUP, the terminal is gone",
}
_PROGRAMS = ("qdbev", "-m")  # what ``sys.argv`` begins with when this is imported by the script, or by python -m
_AGAIN_S = 1.5
_UNSEEN = 0  # no request


class Stopped(KeyboardInterrupt):
    """A request to stop, raised where the command works."""


class _Requests:
    """What this process was asked."""

    begun = False
    """Whether requests come here."""
    working = False
    """Whether a command works that must not be left without being told."""
    received: int = _UNSEEN
    """Number of the signal."""


def begin() -> None:
    """Take requests from now on, if this process is the command ``qdbev`` and no program that only imports it."""
    if os.path.basename((getattr(sys, "argv", None) or [""])[0]) not in _PROGRAMS or _Requests.begun:
        return
    _Requests.begun = True
    for number in WORDS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _requested)
    signal.signal(signal.SIGALRM, _requested_again)
    os.register_at_fork(after_in_child=_leave_to_parent)


def code() -> int:
    """The exit code of the request that came, as shells count signals: 130, 143, 129; 0 where none came."""
    return 128 + _Requests.received if _Requests.received else 0


def sentence(number: int = 0) -> str:
    """What is said of a request, the one that came unless another is given."""
    words = WORDS.get(signal.Signals(number or _Requests.received or signal.SIGINT), "stopped")
    return f"{words}; the same command goes on from the last saved state"


@contextlib.contextmanager
def heard() -> Iterator[None]:
    """Around the work of a command: a request is raised in it as ``Stopped``."""
    _Requests.working = True
    try:
        yield
    finally:
        _Requests.working = False
        if _Requests.begun:
            signal.setitimer(signal.ITIMER_REAL, 0)


def _requested(number: int, frame: FrameType | None) -> None:
    second, _Requests.received = _Requests.received, number
    if second or not _Requests.working:
        _leave()
    signal.setitimer(signal.ITIMER_REAL, _AGAIN_S, _AGAIN_S)
    raise Stopped(sentence())


def _requested_again(number: int, frame: FrameType | None) -> None:
    """Raise the request once more: the first was lost, or what is cleared away takes long."""
    if _Requests.working and _Requests.received:
        raise Stopped(sentence())


def _leave() -> None:
    with contextlib.suppress(OSError):
        os.write(2, f"\nqdbev: {sentence()}\n".encode())
    os._exit(code())


def _leave_to_parent() -> None:
    with contextlib.suppress(ValueError):  # forked by a thread
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
            signal.signal(number, signal.SIG_DFL)
