"""Requests to stop (Ctrl-C, SIGTERM, SIGHUP): from the first import on, a sentence and an exit code, no traceback.

While nothing is at work the process leaves at once. While a command works, ``Stopped`` is raised in it, so that what it
began is cleared away; where a library swallows that, it is raised again. A second request leaves at once. Forked
children leave Ctrl-C to their parent, with which they end. A request that was ignored before we began (nohup) stays so.

Python hears a request in its main thread, between two instructions. Where the system tells another thread of it, or the
main thread just goes to sleep on a lock, it would be heard when the sleep ends: a thread wakes it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from qdbev_cli import children
from qdbev_cli.speaking import has_word

WORDS = {
    signal.SIGINT: "stopped",
    signal.SIGTERM: "stopped by SIGTERM",
    signal.SIGHUP: "stopped by SIGHUP, the terminal is gone",
}
_PROGRAMS = ("qdbev", "-m")  # what ``sys.argv`` begins with when this is imported by the script, or by python -m
_SOON_S, _AGAIN_S, _UNHEARD_S = 0.1, 1.5, 15.0
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
    _begin_to_wake()
    os.register_at_fork(after_in_child=_leave_to_parent)
    children.bind()
    sys.excepthook = _unless_stopped(sys.excepthook, kind=lambda kind, *_: kind)
    sys.unraisablehook = _unless_stopped(sys.unraisablehook, kind=lambda lost: lost.exc_type)


def code() -> int:
    """The exit code of the request that came, as shells count signals: 130, 143, 129; 0 where none came."""
    return 128 + _Requests.received if _Requests.received else 0


def sentence(number: int = 0) -> str:
    """What is said of a request, the one that came unless another is given."""
    words = WORDS.get(signal.Signals(number or _Requests.received or signal.SIGINT), "stopped")
    return f"{words}; the same command goes on: what is sealed stays, trainings, calibrations and evaluations resume"


@contextlib.contextmanager
def heard() -> Iterator[None]:
    """Around the work of a command: a request is raised in it as ``Stopped``."""
    _Requests.working = True
    try:
        yield
    finally:
        _Requests.working = False


def _requested(number: int, frame: FrameType | None) -> None:
    second, _Requests.received = _Requests.received, number
    if second or not _Requests.working:
        _leave()
    raise Stopped(sentence())


def _requested_again(number: int, frame: FrameType | None) -> None:
    """Raise the request once more: the first was lost, or what is cleared away takes long."""
    if _Requests.working and _Requests.received:
        raise Stopped(sentence())


def _begin_to_wake() -> None:
    """Have the system's own handler, which may run in any thread, tell a thread of ours."""
    told, telling = os.pipe()
    os.set_blocking(telling, False)
    signal.set_wakeup_fd(telling, warn_on_full_buffer=False)
    threading.Thread(target=_wake, args=(told, threading.get_ident()), daemon=True).start()


def _wake(told: int, sleeper: int) -> None:
    """Once a request has come, wake the main thread soon if it has not heard, then again and again until it ends.

    Foreign code may go back to waiting at every signal, as torch does for processes that never come: leave for it.
    """
    while (number := os.read(told, 1)[0]) not in WORDS:  # other signals come here too
        pass
    time.sleep(_SOON_S)
    if not _Requests.received:
        signal.pthread_kill(sleeper, signal.SIGALRM)
    last_moment = time.monotonic() + _UNHEARD_S
    while _Requests.received or time.monotonic() < last_moment:
        time.sleep(_AGAIN_S)
        signal.pthread_kill(sleeper, signal.SIGALRM)
    _Requests.received = number
    _leave()


def _unless_stopped(hook: Callable[..., Any], *, kind: Callable[..., type[BaseException]]) -> Callable[..., None]:
    """A hook that prints what nobody catches, but for a request: it is raised again and has its own sentence."""

    def said(*what: Any) -> None:
        if not issubclass(kind(*what), Stopped):
            hook(*what)

    return said


def _leave() -> None:
    with contextlib.suppress(OSError):
        if has_word():
            os.write(2, f"\nqdbev: {sentence()}\n".encode())
    os._exit(code())


def _leave_to_parent() -> None:
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)
