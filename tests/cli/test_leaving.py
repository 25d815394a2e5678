"""The end: at once, exit handlers included; streams that are closed, full or of a narrow encoding."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import profiles
from pipelines.store.artifacts import Store
from qdbev_cli.encoding import NEAR, takes_all

ROOT = Path(__file__).parents[2]
ENDING = """
import atexit, sys, tempfile, threading, time
from qdbev_cli.leaving import leave
class Slow:
    def __del__(self): time.sleep(20)
slow = Slow()
folder = tempfile.TemporaryDirectory()
atexit.register(lambda: print("handler"))
threading.Thread(target=time.sleep, args=(20,)).start()
print(folder.name)
leave(int(sys.argv[1]))
"""


def run(*words: str, shell: str = "", **environment: str) -> subprocess.CompletedProcess[bytes]:
    command = f'"{sys.executable}" -m qdbev_cli {" ".join(words)} {shell}'
    given = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], cwd=ROOT, env=given, capture_output=True)


@pytest.mark.parametrize("code", [0, 3])
def test_it_ends_at_once_with_its_code_after_the_exit_handlers(code: int) -> None:
    answer = subprocess.run(
        [sys.executable, "-c", ENDING, str(code)], cwd=ROOT, capture_output=True, text=True, timeout=15
    )
    folder, handler = answer.stdout.split()
    assert (answer.returncode, handler, answer.stderr) == (code, "handler", "")
    assert not Path(folder).exists()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("runs")
    notes = ("0.41 – 0.43 − 7.8×, α and 中文",)
    Store(root).seal("qat", profile=profiles.load("w4a6"), key="a" * 64, write=lambda folder: None, notes=notes)
    return str(root)


@pytest.mark.parametrize("words", [("artifacts", "list"), ("artifacts", "verify"), ("artifacts", "show", "qat:none")])
@pytest.mark.parametrize("form", ["", "--json"])
def test_a_full_stdout_is_a_sentence(store: str, words: tuple[str, ...], form: str) -> None:
    answer = run(*words, "--store", store, form, shell=">/dev/full")
    last = answer.stderr.decode().splitlines()[-1]
    assert (answer.returncode, b"Traceback" in answer.stderr) == (3, False)
    if form or words[-1] != "qat:none":
        assert last == "qdbev: stdout cannot be written: No space left on device"


@pytest.mark.parametrize(
    "words", [("artifacts", "list"), ("artifacts", "verify", "--json"), ("profiles", "show", "w4a6")]
)
def test_where_nobody_reads_it_ends_quietly_as_other_tools_do(store: str, words: tuple[str, ...]) -> None:
    where = () if words[0] == "profiles" else ("--store", store)
    answer = run(*words, *where, shell="| sleep 0")
    assert (answer.returncode, answer.stderr) in ((141, b""), (0, b""))


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_streams_are_no_bug(store: str, closed: str) -> None:
    answer = run("artifacts", "list", "--store", store, shell=closed)
    assert (answer.returncode, b"Traceback" in answer.stderr) == (0, False)


@pytest.mark.parametrize(("encoding", "line"), [
    ("latin-1", "0.41 - 0.43 - 7.8×, ? and ??"),
    ("cp437", "0.41 - 0.43 - 7.8x, α and ??"),
    ("utf-8", "0.41 – 0.43 − 7.8×, α and 中文"),
])  # fmt: skip
def test_a_narrow_encoding_gets_near_characters(store: str, encoding: str, line: str) -> None:
    shown = run("artifacts", "show", "qat:w4a6-nano", "--store", store, PYTHONIOENCODING=encoding)
    assert shown.returncode == 0, shown.stderr
    assert line in shown.stdout.decode(encoding)
    document = run("artifacts", "show", "qat:w4a6-nano", "--store", store, "--json", PYTHONIOENCODING=encoding)
    read: Any = json.loads(document.stdout.decode(encoding))
    assert read["manifest"]["notes"] == ["0.41 – 0.43 − 7.8×, α and 中文"]


def test_near_characters_are_one_for_one() -> None:
    assert all(len(name) == len(stand_in) == 1 and stand_in.isascii() for name, stand_in in NEAR.items())


@pytest.mark.parametrize(
    ("encoding", "all_of_them"), [("utf-8", True), ("UTF-16", True), ("latin-1", False), ("none", False)]
)
def test_what_an_encoding_takes(encoding: str, all_of_them: bool) -> None:
    class Stream:
        pass

    stream = Stream()
    stream.encoding = encoding  # type: ignore[attr-defined]
    assert takes_all(stream) is all_of_them
