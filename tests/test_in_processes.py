"""The launcher of the demo: a command in two processes, its exit code, and nothing of torchrun's own report."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def launched(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "in_processes.py"), "2", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


def test_a_command_runs_in_both() -> None:
    done = launched("profiles", "list", "--json")
    assert (done.returncode, done.stderr) == (0, "")


def test_what_fails_says_its_sentence_and_keeps_its_code() -> None:
    done = launched("profiles", "show", "w4a66")
    assert done.returncode == 2
    assert "w4a6" in done.stderr and "Traceback" not in done.stderr and "ChildFailed" not in done.stderr
