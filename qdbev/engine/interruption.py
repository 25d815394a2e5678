"""Stopping at a step boundary: SIGINT (Ctrl-C), SIGTERM (schedulers) and SIGHUP are noted, not obeyed mid-step."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class StopSignals:
    """Context in which the first SIGINT, SIGTERM or SIGHUP only sets ``received``; a second one acts at once.

    Outside the main thread signals cannot be caught; there the context does nothing. One that is ignored (SIGHUP under
    nohup) stays ignored.

    Attributes:
        received: The signal's number, or None.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._owner = os.getpid()
        self._former: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        """Start to catch."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._former[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the signals back."""
        self._give_back()

    def obey(self) -> None:
        """Act on the signal now: as Python would have without this context.

        Raises:
            KeyboardInterrupt: For SIGINT, and whenever the former handler returned.
        """
        number = self.received if self.received is not None else signal.SIGINT
        self._give_back()
        signal.raise_signal(number)
        raise KeyboardInterrupt(f"stopped by signal {number}")

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        self._give_back()
        if os.getpid() != self._owner and number == signal.SIGTERM:  # a forked data worker: end as it would have
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    def _give_back(self) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._former = {}
