"""Lines about a long run: which model of how many is finished, its score, how long it took, and how long the rest will.

What is left is told by work, not by number of steps: each model states units of work, and the rate is that of the
models that this run has made. What was sealed before takes no time and says nothing about it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

_WORTH_S = 1.0  # a step that took less was sealed before
_MINUTE_S, _HOUR_S = 60.0, 3600.0


class Steps:
    """The models of a run as they are finished.

    Args:
        units: Work of each model, in any unit, in their order.
        clock: Seconds.

    >>> steps = Steps([1, 9], clock=iter([0.0, 60.0, 120.0]).__next__)
    >>> steps.done("float", nds=0.5604)
    '[1/2] float  NDS 0.560  1 min, about 9 min left'
    >>> steps.done("PTQ", nds=0.5512)
    '[2/2] PTQ  NDS 0.551 (float 0.560)  1 min'
    """

    def __init__(self, units: Sequence[float], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._units = units
        self._clock = clock
        self._last = clock()
        self._finished = 0
        self._worked_s, self._worked = 0.0, 0.0
        self._first: float | None = None

    def done(self, name: str, *, nds: float) -> str:
        """The line for the next model, which is finished now.

        Args:
            name: What tables call it.
            nds: Its score; the first one is what later ones are held against.
        """
        now = self._clock()
        took, self._last = now - self._last, now
        units = self._units[self._finished] if self._finished < len(self._units) else 0.0
        self._finished += 1
        if took >= _WORTH_S:
            self._worked_s, self._worked = self._worked_s + took, self._worked + units
        against = "" if self._first is None else f" (float {self._first:.3f})"
        self._first = nds if self._first is None else self._first
        count = max(len(self._units), self._finished)
        return f"[{self._finished}/{count}] {name}  NDS {nds:.3f}{against}  {_took(took)}{self._left()}"

    def _left(self) -> str:
        rest = sum(self._units[self._finished :])
        if not rest or not self._worked:
            return ""
        return f", about {duration(rest * self._worked_s / self._worked)} left"


def duration(seconds: float) -> str:
    """Seconds as people say them.

    >>> duration(5.2), duration(100), duration(5400)
    ('5 s', '2 min', '1.5 h')
    """
    if seconds < _MINUTE_S:
        return f"{seconds:.0f} s"
    return f"{seconds / _MINUTE_S:.0f} min" if seconds < _HOUR_S else f"{seconds / _HOUR_S:.1f} h"


def _took(seconds: float) -> str:
    return duration(seconds) if seconds >= _WORTH_S else "sealed before"
