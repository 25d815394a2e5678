"""Nothing half-written: a full disk, a stop or a kill at any moment leaves no artifact and no litter."""

from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import profiles
from pipelines.store import sealing
from pipelines.store.artifacts import Artifact, DamagedArtifact, Store, StoreUnwritable

PROFILE = profiles.load("w4a6")
KEY = profiles.fingerprint("key of the tests")


def write_weights(folder: Path) -> None:
    save_file({"a": np.arange(6, dtype=np.float32), "b": np.ones((2, 3), np.float16)}, folder / "weights.safetensors")
    (folder / "ranges").mkdir()
    (folder / "ranges" / "plan.json").write_text('{"layers": 3}\n')


def seal(store: Store, **changes: Any) -> Artifact:
    arguments: dict[str, Any] = {
        "profile": PROFILE,
        "key": KEY,
        "write": write_weights,
        "metrics": {"nds": 0.4},
        "parents": {"float": "ab" * 32},
        **changes,
    }
    return store.seal("qat", **arguments)


def remains(store: Store) -> list[str]:
    """Everything in the store's folder, hidden folders included."""
    return sorted(path.relative_to(store.root).as_posix() for path in store.root.rglob("*"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "runs")


def test_sealing_and_opening_leave_no_file_open(store: Store) -> None:
    seal(store)
    before = len(os.listdir("/proc/self/fd"))
    for number in range(3):
        seal(store, key=profiles.fingerprint(number))
        assert store.list()
    assert len(os.listdir("/proc/self/fd")) <= before


def full_disk(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("place", ["write", "safetensors", "manifest", "fsync", "rename", "mkdir"])
def test_a_full_disk_leaves_nothing(store: Store, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    def write_then_fail(folder: Path) -> None:
        write_weights(folder)
        full_disk()

    def fail_like_safetensors(folder: Path) -> None:
        write_weights(folder)
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")

    changes = {"write": {"write": write_then_fail}, "safetensors": {"write": fail_like_safetensors}}.get(place, {})
    targets = {
        "manifest": (Path, "write_bytes"),
        "fsync": (os, "fsync"),
        "rename": (Path, "rename"),
        "mkdir": (Path, "mkdir"),
    }
    with monkeypatch.context() as patch, pytest.raises(StoreUnwritable, match=r"the disk is full\. Nothing was sealed"):
        if place in targets:
            patch.setattr(*targets[place], full_disk)
        seal(store, **changes)
    assert remains(store) == []
    assert seal(store).digest == seal(Store(store.root.parent / "other")).digest


def test_a_folder_nobody_may_write(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(StoreUnwritable, match="Permission denied; choose another with --store"):
        seal(store)


def test_a_store_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(StoreUnwritable, match="cannot be written: Not a directory"):
        seal(Store(tmp_path / "runs"))


@pytest.mark.parametrize("stop", [KeyboardInterrupt, ValueError, SystemExit])
def test_any_stop_leaves_nothing(store: Store, stop: type[BaseException]) -> None:
    def write(folder: Path) -> None:
        write_weights(folder)
        raise stop

    with pytest.raises(stop):
        seal(store, write=write)
    assert remains(store) == []


def test_errors_of_the_writer_that_are_not_the_disks_pass_through(store: Store) -> None:
    def write(folder: Path) -> None:
        raise FileNotFoundError(errno.ENOENT, "no such input", "input.json")

    with pytest.raises(FileNotFoundError, match="input"):
        seal(store, write=write)
    assert remains(store) == []


KILLED = """
import sys, time
from pathlib import Path
import profiles
from pipelines.store import sealing
from pipelines.store.artifacts import Store

def write(folder):
    (folder / "weights.json").write_text("{}")
    print("writing", flush=True)
    time.sleep(60)

Store(Path(sys.argv[1])).seal("qat", profile=profiles.load("w4a6"), key="ab" * 32, write=write)
"""


def test_killed_while_writing_leaves_no_artifact_and_is_swept_later(store: Store) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(store.root)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    [unfinished] = [path for path in store.root.iterdir() if path.name.startswith(".unfinished-")]
    old = time.time() - 3600
    os.utime(unfinished, (old, old))
    artifact = seal(store)
    assert unfinished.exists(), "its process lives and holds it"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert store.list() == [artifact]
    seal(store, key=profiles.fingerprint("another"))
    assert not unfinished.exists()


def test_a_folder_just_made_is_not_swept(store: Store) -> None:
    store.root.mkdir()
    fresh = store.root / ".unfinished-fresh"
    fresh.mkdir()
    seal(store)
    assert fresh.exists()


def seal_at(args: tuple[Path, float]) -> str:
    root, start = args
    time.sleep(max(0.0, start - time.time()))
    return seal(Store(root)).digest


def test_two_processes_sealing_the_same_key_agree(store: Store) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        digests = pool.map(seal_at, [(store.root, time.time() + 3.0)] * 2, chunksize=1)
    assert len(set(digests)) == 1
    assert [artifact.digest for artifact in store.list()] == digests[:1]
    assert not [path for path in store.root.iterdir() if path.name.startswith(".unfinished")]


def test_a_broken_safetensors_file_is_not_sealed(store: Store) -> None:
    def write(folder: Path) -> None:
        write_weights(folder)
        path = folder / "weights.safetensors"
        path.write_bytes(path.read_bytes()[:-1])

    with pytest.raises(DamagedArtifact, match=r"weights\.safetensors was not written whole: tensor b is cut"):
        seal(store, write=write)
    assert remains(store) == []


def test_a_pickle_is_not_sealed(store: Store) -> None:
    with pytest.raises(DamagedArtifact, match=r"weights\.pth is of a pickle format"):
        seal(store, write=lambda folder: (folder / "weights.pth").write_bytes(b"x"))
    assert remains(store) == []


# -- permissions, and taking the place of one that is there ----------------------------------------------------------


@pytest.mark.parametrize(("mask", "file", "folder"), [(0o022, 0o644, 0o755), (0o007, 0o660, 0o770), (0, 0o666, 0o777)])
def test_files_and_folders_follow_the_umask(store: Store, mask: int, file: int, folder: int) -> None:
    def write(path: Path) -> None:
        write_weights(path)
        (path / "weights.safetensors").chmod(0o600)

    former = os.umask(mask)
    try:
        artifact = seal(store, write=write)
        copy = Store(store.root.parent / "other").adopt(artifact)
    finally:
        os.umask(former)
    for sealed in (artifact, copy):
        for path in [sealed.path, *sealed.path.rglob("*")]:
            assert path.stat().st_mode & 0o777 == (folder if path.is_dir() else file), path


def fail_to_rename(*_: Any) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


@pytest.mark.parametrize("swaps", [True, False])
def test_forcing_puts_the_new_one_in_the_place_of_the_old(
    store: Store, monkeypatch: pytest.MonkeyPatch, swaps: bool
) -> None:
    if not swaps:
        monkeypatch.setattr(sealing, "_exchange", lambda first, second: False)
    seal(store)
    newer = seal(store, metrics={"nds": 0.5}, replace=True)
    assert store.list() == [newer]
    assert remains(store) == sorted({newer.path.name, *(f"{newer.path.name}/{name}" for name in _names(newer.path))})


def _names(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*")]


@pytest.mark.parametrize("swaps", [True, False])
def test_the_old_one_stays_where_the_new_cannot_take_its_place(
    store: Store, monkeypatch: pytest.MonkeyPatch, swaps: bool
) -> None:
    old = seal(store)
    rename = Path.rename

    def fail_for_the_new(self: Path, target: Path) -> Path:
        if self.name.startswith(".unfinished") and not self.name.endswith("-replaced"):
            fail_to_rename()
        return rename(self, target)

    with monkeypatch.context() as patch, pytest.raises(StoreUnwritable):
        patch.setattr(sealing, "_exchange", fail_to_rename if swaps else lambda first, second: False)
        patch.setattr(Path, "rename", fail_for_the_new)
        seal(store, metrics={"nds": 0.5}, replace=True)
    assert store.list() == [old] and store.verify(old) == old


def test_two_folders_are_swapped_in_one_step(tmp_path: Path) -> None:
    for name in ("new", "old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    if not sealing._exchange(tmp_path / "new", tmp_path / "old"):
        pytest.skip("this file system cannot swap")
    assert [path.name for path in (tmp_path / "old").iterdir()] == ["new"]
    with pytest.raises(FileNotFoundError):
        sealing._exchange(tmp_path / "none", tmp_path / "old")


@pytest.mark.parametrize(("code", "said"), [(errno.ENOSPC, "the disk is full"), (errno.EFBIG, "File too large")])
def test_a_copy_that_fails_is_said_in_one_sentence(
    store: Store, monkeypatch: pytest.MonkeyPatch, code: int, said: str
) -> None:
    artifact, other = seal(store), Store(store.root.parent / "other")

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(shutil.copytree, "__defaults__", (False, None, fail, False, False))
    with pytest.raises(StoreUnwritable, match=f"other cannot be written: {said}"):
        other.adopt(artifact)
    assert remains(other) == []


@pytest.mark.parametrize(("code", "phrase"), [(27, "File too large"), (5, "Input/output error"), (122, "disk is full")])
def test_what_safetensors_keeps_of_the_systems_error_is_said(tmp_path: Path, code: int, phrase: str) -> None:
    with pytest.raises(StoreUnwritable, match=phrase), sealing.explained_writing(tmp_path):
        raise RuntimeError(f"Error while serializing: I/O error: in other words (os error {code})")
