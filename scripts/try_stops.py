"""Ctrl-C, SIGTERM or SIGHUP at random moments of a short command: each time its exit code, a sentence, no traceback.

python scripts/try_stops.py --times 50

The signal goes to the whole process group, as a terminal sends it. At first there is only Python's own start, before
any line of ours, with its own answer to a Ctrl-C: that is counted apart. Where the command is over before the signal
comes it ends with 0.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LIMIT_S = 30


def words(folder: Path) -> list[str]:
    """Scene generation from nothing: imports, processes, many small files."""
    settings = ("--set", "data.key_frames=2")
    made = ["data", "synth", "--out", str(folder / "scenes"), "--train-scenes", "6", "--val-scenes", "2"]
    return [sys.executable, "-m", "qdbev_cli", *made, *settings]


def is_ours(process: int) -> bool:
    """Whether Python has begun, so that the command's own handlers answer."""
    caught = re.findall(r"SigCgt:\s*(\w+)", Path(f"/proc/{process}/status").read_text())
    return bool(caught and int(caught[0], 16) & 1 << signal.SIGALRM - 1)


def try_stop(number: int, *, after_s: float, folder: Path) -> tuple[int, float, str, bool]:
    """Start the command and stop it; its code as a shell sees it, how long that took, what it said, if it was ours."""
    environment = {**os.environ, "QDBEV_CACHE": str(folder / "cache"), "PYTHONDONTWRITEBYTECODE": "1"}
    process = subprocess.Popen(
        words(folder), env=environment, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        time.sleep(after_s)
        began, ours = time.monotonic(), True
        if process.poll() is None:
            ours = is_ours(process.pid)
            os.killpg(process.pid, number)
        said = process.communicate(timeout=LIMIT_S)[1].decode()
        code = process.returncode
        return 128 - code if code < 0 else code, time.monotonic() - began, said, ours
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def is_well(code: int, said: str, *, number: int) -> bool:
    """Whether it ended as it should."""
    return code == 0 or (code == 128 + number and "qdbev: stopped" in said and "Traceback" not in said)


def main() -> int:
    """Stop it again and again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=50)
    parser.add_argument("--signal", default="SIGINT", choices=("SIGINT", "SIGTERM", "SIGHUP"))
    parser.add_argument("--within", type=float, default=4.0, help="seconds, the latest moment")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    number, draw = signal.Signals[arguments.signal], random.Random(arguments.seed)
    well, over, early = 0, 0, 0
    for _ in range(arguments.times):
        after_s = draw.uniform(0.0, arguments.within)
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            code, took_s, said, ours = try_stop(number, after_s=after_s, folder=Path(folder))
        good = not ours or is_well(code, said, number=number)
        well, over, early = well + good, over + (code == 0), early + (not ours)
        last = said.strip().rpartition("\n")[2][-90:] if good else said
        print(f"after {after_s:.2f} s: {'' if good else 'NOT WELL '}{code} in {took_s:.2f} s, {last}", flush=True)
    print(f"{well} of {arguments.times} ended well, {over} before the signal came, {early} as Python began")
    return 0 if well == arguments.times else 1


if __name__ == "__main__":
    sys.exit(main())
