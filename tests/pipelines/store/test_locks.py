"""Two processes that want one artifact: the second waits, sees for whom, and takes what the first sealed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from pipelines.store import locks
from pipelines.store.artifacts import Store, StoreUnwritable
from pipelines.store.making import Content, made
from profiles import fingerprint, load
from profiles.profile import Profile

KEY = fingerprint("key of the tests")

MAKING = """
import sys
from pathlib import Path
from types import SimpleNamespace
from pipelines.store.artifacts import Store
from pipelines.store.making import Content, made
from profiles import fingerprint, load

def make():
    print("making", flush=True)
    if sys.stdin.readline() != "go on\\n":
        raise ValueError("told to fail")
    return Content(lambda folder: (folder / "x.json").write_text("{}"))

asking = SimpleNamespace(profile=load("w4a6"), store=Store(sys.argv[1]), force=sys.argv[2] == "force", progress=True)
artifact, message = made(asking, "qat", key=fingerprint("key of the tests"), make=make, known="was there")
print(artifact.manifest.record.created, message, sep="|")
"""


class Asking:
    def __init__(self, root: Path, *, force: bool = False) -> None:
        self.profile: Profile = load("w4a6")
        self.store = Store(root)
        self.force = force
        self.progress = False


def content() -> Content:
    return Content(lambda folder: (folder / "x.json").write_text("{}"), message="made here")


@contextmanager
def maker(root: Path, *, force: bool = False) -> Iterator[subprocess.Popen[str]]:
    """Another process that makes the artifact; it is at it, or waits."""
    words = [sys.executable, "-c", MAKING, str(root), "force" if force else ""]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(words, text=True, cwd=Path(__file__).parents[3], **pipes)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def line(stream: IO[str] | None) -> str:
    assert stream is not None
    return stream.readline().strip()


def tell(process: subprocess.Popen[str], text: str) -> None:
    assert process.stdin is not None
    process.stdin.write(text + "\n")
    process.stdin.flush()


def shown(process: subprocess.Popen[str], *, until: str) -> str:
    assert process.stderr is not None
    text = ""
    while until not in text and (character := process.stderr.read(1)):
        text += character
    return text


def test_what_nobody_holds_is_had_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks.time, "sleep", lambda seconds: pytest.fail("waited, though nobody held it"))
    for _ in range(2):  # the second time, the first has let go
        with locks.alone(tmp_path / "x.lock") as waited:
            assert not waited


@pytest.mark.parametrize("force", [False, True])
def test_the_second_waits_says_for_whom_and_takes_what_the_first_sealed(tmp_path: Path, force: bool) -> None:
    if force:
        made(Asking(tmp_path), "qat", key=KEY, make=content)
    with maker(tmp_path, force=force) as first:
        assert line(first.stdout) == "making"
        with maker(tmp_path, force=force) as second:
            text = shown(second, until="waiting")
            assert f"qat-{KEY[:12]} is being made by process {first.pid} on {socket.gethostname()}, since 20" in text
            tell(first, "go on")
            created, message = line(first.stdout).split("|")
            assert message == ""
            assert line(second.stdout) == f"{created}|made by another process, which this one waited for"
            second.wait()
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == [f"qat-w4a6-nano-{KEY[:12]}"]


@pytest.mark.parametrize("end", ["fails", "killed"])
def test_the_second_makes_it_where_the_first_does_not_come_to_its_end(tmp_path: Path, end: str) -> None:
    with maker(tmp_path) as first:
        assert line(first.stdout) == "making"
        with maker(tmp_path) as second:
            shown(second, until="waiting")
            if end == "fails":
                tell(first, "fail")
            else:
                first.send_signal(signal.SIGKILL)
            assert line(second.stdout) == "making"
            tell(second, "go on")
            assert line(second.stdout).endswith("|")


def test_a_file_that_a_dead_process_left_blocks_nobody(tmp_path: Path) -> None:
    (tmp_path / ".locks").mkdir()
    stale = tmp_path / ".locks" / f"qat-{KEY[:12]}.lock"
    stale.write_text('{"pid": 1, "host": "elsewhere", "since": "2020-01-01"}')
    assert made(Asking(tmp_path), "qat", key=KEY, make=content).message == "made here"
    assert not stale.exists()


@pytest.mark.parametrize("written", ["", "[]", "null", '{"pid": 1}', "\x00\xff"])
def test_a_lock_that_says_nothing_of_its_holder_is_anothers(tmp_path: Path, written: str) -> None:
    (tmp_path / "x.lock").write_text(written, encoding="latin-1")
    assert locks.holder(tmp_path / "x.lock") == "another process"


def test_keys_do_not_wait_for_each_other(tmp_path: Path) -> None:
    def make() -> Content:
        inner = made(Asking(tmp_path), "vgd", key=fingerprint("another"), make=content)
        return Content(lambda folder: None, parents={"model": inner.artifact.digest})

    assert made(Asking(tmp_path), "qat", key=KEY, make=make).artifact.manifest.kind == "qat"


def test_many_holders_are_never_two_at_a_time(tmp_path: Path) -> None:
    inside, most = 0, 0

    def hold() -> None:
        nonlocal inside, most
        for _ in range(5):
            with locks.alone(tmp_path / "locks" / "x.lock"):
                inside += 1
                most = max(most, inside)
                inside -= 1

    threads = [threading.Thread(target=hold) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (inside, most) == (0, 1)
    assert list((tmp_path / "locks").iterdir()) == []


def test_a_store_that_cannot_be_written_is_said_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(StoreUnwritable, match="cannot be written"):
        made(Asking(tmp_path / "runs"), "qat", key=KEY, make=lambda: pytest.fail("worked in vain"))


def test_where_the_file_system_knows_no_locks_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno
    import fcntl

    def refuse(handle: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(locks.time, "sleep", lambda seconds: pytest.fail("waited where nobody can hold anything"))
    with locks.alone(tmp_path / "x.lock") as waited:
        assert not waited
