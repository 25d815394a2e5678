"""Ctrl-C, SIGTERM and SIGHUP end a command with a sentence and their exit code, at whatever moment they come."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMAND = """
import os, signal, sys, time
sys.argv[0] = "qdbev"
{before}
from qdbev_cli.app import app, main
from pipelines.reporting.outcome import Outcome
from qdbev_cli.options import OutputOptions, command

def work():
    print("at work", file=sys.stderr, flush=True)
    {work}

@app.command("work")
@command()
def _(options: OutputOptions) -> Outcome:
    work()
    return Outcome(messages=["done"])

sys.argv[1:] = ["work"]
main()
"""
GOES_ON = "the same command goes on: what is sealed stays, trainings, calibrations and evaluations resume\n"
SLEEP = "time.sleep(30)"
SWALLOW = """
    class Odd:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGINT)
            for _ in range(1000): pass
    Odd()  # an exception in __del__ is lost
    for _ in range(200): time.sleep(0.1)
"""
CAUGHT = """
    while True:
        try: time.sleep(30)
        except KeyboardInterrupt: raise ValueError("something else") from None
"""
TOLD_ANOTHER = """
    import threading
    other = threading.Thread(target=time.sleep, args=(30,), daemon=True)
    other.start()
    threading.Timer(0.1, signal.pthread_kill, (other.ident, signal.SIGTERM)).start()
    threading.Event().wait()  # on a lock that nobody frees
"""
DEAF = """
    import ctypes
    lock = (ctypes.c_char * 64)()
    threads = ctypes.CDLL(None)
    threads.pthread_mutex_lock(lock)
    threads.pthread_mutex_lock(lock)  # waits for itself, whatever signal comes
"""
CHILDREN = """
    import multiprocessing
    pool = multiprocessing.get_context("fork").Pool(3)
    pool.map(time.sleep, [30] * 3)
"""


def as_from_a_terminal() -> None:
    """Ignore nothing: jobs in the background of a shell ignore Ctrl-C, those under nohup SIGHUP."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def started(work: str, *, before: str = "") -> subprocess.Popen[str]:
    code = COMMAND.format(work=work, before=before)
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=as_from_a_terminal,
    )
    assert line(process) == "at work\n"
    return process


def ended(process: subprocess.Popen[str], *, within_s: float = 60.0) -> tuple[str, str]:
    """What else it and its children say until the last of them is gone; one that does not end is killed."""
    try:
        return process.communicate(timeout=within_s)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def line(process: subprocess.Popen[str]) -> str:
    """What it says next; ``readline`` would take more than a line, and ``communicate`` would not find it."""
    assert process.stderr is not None
    said = b""
    while not said.endswith(b"\n") and (character := os.read(process.stderr.fileno(), 1)):
        said += character
    return said.decode()


@pytest.mark.parametrize(
    ("number", "code", "words"),
    [
        (signal.SIGINT, 130, "stopped; "),
        (signal.SIGTERM, 143, "stopped by SIGTERM; "),
        (signal.SIGHUP, 129, "stopped by SIGHUP, the terminal is gone; "),
    ],
)
@pytest.mark.parametrize("work", [SLEEP, CAUGHT, CHILDREN], ids=["sleeping", "caught", "children"])
def test_a_command_at_work_says_a_sentence(number: int, code: int, words: str, work: str) -> None:
    process = started(work)
    if work is CHILDREN:
        time.sleep(0.3)
    os.killpg(process.pid, number)
    out, err = ended(process)
    assert (process.returncode, out) == (code, "")
    assert err == f"qdbev: {words}{GOES_ON}"


def test_a_request_that_a_library_swallows_is_raised_again() -> None:
    process = started(SWALLOW)
    out, err = ended(process)
    assert (process.returncode, out) == (130, "")
    assert err == f"qdbev: stopped; {GOES_ON}"  # nothing of what was lost


def test_a_request_that_the_system_tells_another_thread_wakes_the_main_one() -> None:
    process = started(TOLD_ANOTHER)
    _, err = ended(process)
    assert (process.returncode, err.count("stopped by SIGTERM")) == (143, 1)


def test_a_wait_that_no_signal_ends_is_left() -> None:
    process = started(DEAF, before="from qdbev_cli import stopping; stopping._UNHEARD_S = 1.0")
    os.kill(process.pid, signal.SIGTERM)
    _, err = ended(process)
    assert (process.returncode, err.strip()) == (143, f"qdbev: stopped by SIGTERM; {GOES_ON}".strip())


def test_children_end_with_a_command_that_is_killed() -> None:
    process = started(CHILDREN)
    time.sleep(0.3)
    process.kill()
    ended(process)  # which reads until the last of them has closed its pipe
    assert process.returncode == -signal.SIGKILL


def test_a_second_request_leaves_at_once() -> None:
    process = started(
        "\n    try: time.sleep(30)\n    finally: print('clearing', file=sys.stderr, flush=True); time.sleep(30)"
    )
    time.sleep(0.3)  # it says that it works before it does
    os.kill(process.pid, signal.SIGINT)
    assert line(process) == "clearing\n"
    os.kill(process.pid, signal.SIGINT)
    ended(process, within_s=20)
    assert process.returncode == 130


def test_a_hangup_that_is_ignored_stays_ignored() -> None:
    process = started("time.sleep(0.5)", before="signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup")
    os.kill(process.pid, signal.SIGHUP)
    out, _ = ended(process)
    assert (process.returncode, out) == (0, "done\n")


def test_a_program_that_only_imports_us_keeps_its_handlers() -> None:
    code = "import signal, qdbev_cli.app; print(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)"
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert answer.stdout == "True\n"


@pytest.mark.parametrize("seed", range(4))
def test_ctrl_c_at_a_random_moment_of_the_imports(seed: int, tmp_path: Path) -> None:
    """``scripts/try_stops.py`` tries 50 moments of scene generation, from the first."""
    words = ["data", "synth", "--out", str(tmp_path / "scenes"), "--train-scenes", "9", "--val-scenes", "9"]
    process = subprocess.Popen(
        [sys.executable, "-m", "qdbev_cli", *words],
        cwd=ROOT,
        text=True,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=as_from_a_terminal,
    )
    wait_for_handlers(process.pid)
    time.sleep(random.Random(seed).uniform(0.0, 0.4))
    os.killpg(process.pid, signal.SIGINT)
    _, err = ended(process)
    assert process.returncode == 130
    assert err.endswith(f"qdbev: stopped; {GOES_ON}")
    assert "Traceback" not in err


def wait_for_handlers(process: int) -> None:
    """Until Python itself has begun and ours take over: before that a Ctrl-C is not ours to answer."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        caught = int(re.findall(r"SigCgt:\s*(\w+)", Path(f"/proc/{process}/status").read_text())[0], 16)
        if caught & 1 << signal.SIGALRM - 1:
            return
        time.sleep(0.01)
    raise AssertionError("no handlers of ours")
