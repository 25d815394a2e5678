"""Words that nobody should type, in every command: exit code 0, 2 or 3, one short sentence, in time, no traceback.

    python scripts/fuzz_words.py --cases 2000 --seed 0

Each case is drawn from the seed and its number alone: a profile as YAML text with something wrong in it, overrides,
options of a command; what would take long is asked for as a dry run. Prints each fault with the words that make it.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from drawn_words import Case, case
from typer.testing import CliRunner

from qdbev_cli.app import app

LONGEST_CHARACTERS = 500
LONGEST_SECONDS = 10.0
FRAME = re.compile(r"[─│╭╮╰╯]|Usage: .*|Try '.*' for help\.|Error")


class Fault(NamedTuple):
    """What a case should not have done."""

    kind: str
    """Which rule it breaks."""
    detail: str
    """The end of what was said."""


class TooLong(BaseException):
    """A case takes longer than it may; no command can take it for an error of its own."""


def fault_of(typed: Case, *, folder: Path, seconds: float = LONGEST_SECONDS) -> Fault | None:
    """Run a case in this process, in an empty folder; None if all is as it should be.

    Args:
        typed: The case.
        folder: Where its files lie and it may write.
        seconds: How long it may take.
    """
    for name, text in typed.files.items():
        (folder / name).write_bytes(text.encode("utf-8", "surrogatepass"))
    before, start = Path.cwd(), time.process_time()
    os.chdir(folder)
    signal.signal(signal.SIGALRM, _too_long)
    try:
        signal.setitimer(signal.ITIMER_REAL, 3 * seconds)
        result = CliRunner(env={"COLUMNS": "120", "TERM": "dumb", "NO_COLOR": "1"}).invoke(app, typed.words)
    except TooLong:
        return Fault("hangs", f"more than {3 * seconds:.0f} s")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        os.chdir(before)
    taken = time.process_time() - start  # of the processor, however busy the machine is
    said = " ".join(FRAME.sub(" ", result.stderr).split())
    if result.exit_code not in (0, 2, 3) or "Traceback" in result.output:
        return Fault(f"exit code {result.exit_code}", said[-300:] or repr(result.exception))
    if taken > seconds:
        return Fault("slow", f"{taken:.1f} s")
    if result.exit_code and len(said) > LONGEST_CHARACTERS:
        return Fault("long", f"{len(said)} characters: {said[:200]}")
    return Fault("unprintable", repr(said)) if not said.isprintable() else None


def _too_long(_: int, __: FrameType | None) -> None:
    raise TooLong


def main() -> int:
    """Run the cases and print the faults; the exit code says whether there were any."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    wanted = parser.parse_args()
    faults: Counter[str] = Counter()
    start = time.perf_counter()
    for number in range(wanted.first, wanted.first + wanted.cases):
        typed = case(wanted.seed, number)
        with tempfile.TemporaryDirectory() as folder:
            os.environ["QDBEV_CACHE"] = f"{folder}/cache"
            fault = fault_of(typed, folder=Path(folder))
        if fault is not None:
            faults[fault.kind] += 1
            print(f"{number}: {fault.kind}: {fault.detail}\n    {shlex.join(typed.words)[:400]!r}", flush=True)
    said = ", ".join(f"{count} {kind}" for kind, count in faults.items()) or "no fault"
    print(f"{wanted.cases} cases of seed {wanted.seed} in {time.perf_counter() - start:.0f} s: {said}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
