"""The launcher of the demo: a command in several processes, its exit code, its batches; no report of torchrun's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

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
    (sentence,) = done.stderr.splitlines()  # of one process, and nothing of torchrun's
    assert sentence.startswith("qdbev: there is no profile 'w4a66'; did you mean w4a6?")


@pytest.mark.parametrize(("processes", "batch"), [(1, None), (2, 4), (4, 2), (8, 1)])
def test_the_processes_of_the_demo_share_out_the_batch(processes: int, batch: int | None) -> None:
    lines = made("demo", "--dry-run", f"PROCESSES={processes}").stdout.splitlines()
    compressing = [line.split() for line in lines if " compress " in line]
    sizes = [f"qat.batch_size={batch}", f"distillation.schedule.batch_size={batch}"] if batch else []
    assert [[word for word in words if "batch_size" in word] for words in compressing] == [sizes, sizes]


@pytest.mark.parametrize(("quick", "scenes"), [("", 120), ("1", 8)])
def test_the_demo_and_its_report_speak_of_the_same_run(quick: str, scenes: int) -> None:
    lines = [line for line in made("demo", "--dry-run", f"QUICK={quick}").stdout.splitlines() if "--set" in line]
    settings = [[word for word in line.split() if "=" in word] for line in lines]
    assert len(lines) == 3 and settings[0] == settings[1] == settings[2]
    assert f"data.train_scenes={scenes}" in settings[0]


def test_a_batch_that_cannot_be_shared_out_is_refused() -> None:
    refused = made("shares", "PROCESSES=3")
    assert refused.returncode == 2
    assert "PROCESSES=3: a batch of 8 is shared out among 1, 2, 4 or 8 processes" in refused.stderr


def made(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["make", *words], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
