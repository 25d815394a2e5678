"""THE DOOR: words of the shell into a profile, results into text; imports no torch until a command runs."""

from __future__ import annotations

import _signal as signal  # built in: nothing can interrupt its import

_ASKED = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
_mask = signal.pthread_sigmask(signal.SIG_BLOCK, _ASKED)  # a request waits until there is an answer to it
try:
    from qdbev_cli import stopping

    stopping.begin()  # before the imports that take time: a Ctrl-C during them ends in a sentence too
finally:
    signal.pthread_sigmask(signal.SIG_SETMASK, _mask)
