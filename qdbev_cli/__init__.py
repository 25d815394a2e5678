"""THE DOOR: words of the shell into a profile, results into text; imports no torch until a command runs."""

from __future__ import annotations

from qdbev_cli import stopping

stopping.begin()  # before the imports that take time: a Ctrl-C during them ends in a sentence too
