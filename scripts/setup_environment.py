"""The virtual environment under construction: its interpreter, its log, pip, and the clock of one set-up.

Standard library only; imported by ``setup.py`` and ``setup_mmcv.py`` beside it.
"""

from __future__ import annotations

import copy
import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "requirements"
HEARTBEAT_S = 30.0


class SetupError(Exception):
    """What went wrong and what to do about it, in a sentence or two."""


class Environment:
    """A virtual environment under ``folder`` and the log of everything that is run to fill it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.python = folder / "bin" / "python"
        self.log = folder / "setup.log"
        self.stamp = folder / "setup.stamp"
        self.started = time.monotonic()

    def say(self, text: str) -> None:
        """One line of progress with the time since the start."""
        seconds = int(time.monotonic() - self.started)
        print(f"[{seconds // 60:2d}:{seconds % 60:02d}] {text}", flush=True)

    def run(self, command: Sequence[str | Path], *, doing: str, extra: dict[str, str] | None = None) -> None:
        """Run a command into the log; a line now and then says that it is still at work.

        Raises:
            SetupError: the command ended with another exit code than 0.
        """
        words = [str(word) for word in command]
        settings = {**os.environ, **(extra or {})}
        with self.log.open("a", encoding="utf-8") as log:
            print(f"\n$ {' '.join(words)}", file=log, flush=True)
            process = subprocess.Popen(
                words, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=settings
            )
            try:
                code = self._wait(process, doing=doing)
            except BaseException:
                process.terminate()
                process.wait()
                raise
        if code != 0:
            raise SetupError(f"{doing} failed (exit code {code}); the lines above say why.")

    def _wait(self, process: subprocess.Popen[bytes], *, doing: str) -> int:
        while True:
            try:
                return process.wait(timeout=HEARTBEAT_S)
            except subprocess.TimeoutExpired:
                self.say(f"  still at it: {doing} {build_progress(self.log)}".rstrip())

    def pip(self, *words: str | Path, doing: str, extra: dict[str, str] | None = None) -> None:
        """Pip of this environment, without questions and without a newer pip's advertisement."""
        quiet = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", "PYTHONUNBUFFERED": "1"}
        self.run([self.python, "-m", "pip", *words], doing=doing, extra={**quiet, **(extra or {})})

    def beside(self, log: str) -> Environment:
        """The same environment with a log of its own, for what runs at the same time."""
        other = copy.copy(self)
        other.log = self.folder / log
        return other

    def answer(self, code: str) -> str | None:
        """What a line of Python prints in this environment; None if it fails."""
        command = [str(self.python), "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        return done.stdout.strip() if done.returncode == 0 else None


def build_progress(log: Path) -> str:
    """The compiler's last ``[n/m]`` of the command that the log ends with; empty before the first."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 100_000))
        lines = file.read().decode(errors="replace").splitlines()
    for line in reversed(lines):
        head = line.strip().split(" ", 1)[0]
        if head == "$":
            break
        if head.startswith("[") and head.endswith("]") and "/" in head:
            return head
    return ""


def pin(name: str) -> str:
    """The first pin of ``requirements/<name>.txt``, for example ``mmcv==2.1.0``."""
    lines = (REQUIREMENTS / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    return next(line for line in lines if line and not line.startswith("#"))
